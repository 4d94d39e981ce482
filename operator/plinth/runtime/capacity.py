"""The one Ray that `plinth up` works on, which may be away, be started anew at another address, or be someone else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.capacity import CapacityAway, CapacityObservation, RayObservation
from plinth.cluster.ray_rest import RayRest
from plinth.desired.serve_config import ServeSettings
from plinth.domain.fleet import Node, PoolPlan


class CurrentRay:
    """The adapter behind the cycle's `Capacity` port: the Ray attached now; with none attached, it is away."""

    def __init__(self, settings: Callable[[Mapping[str, Any]], ServeSettings]) -> None:
        """`settings` makes what replicas are told from Ray's last answer."""
        self._rest: RayRest | None = None
        self._make_settings = settings
        self._settings = settings({})
        self._nodes: tuple[Node, ...] = ()

    async def attach(self, address: str, token_file: Path | None) -> None:
        """Work on this Ray from now on."""
        await self.detach()
        self._rest = RayRest(address, token_file)

    async def detach(self) -> None:
        """Work on none."""
        rest, self._rest = self._rest, None
        if rest is not None:
            await rest.close()

    async def observe(self) -> CapacityObservation:
        """One Ray without a name."""
        serve: Mapping[str, Any] | None = None
        try:
            answer = await self._current().observe()
        except CapacityAway:
            pass
        else:
            serve, self._nodes = answer.serve, answer.nodes
            self._settings = self._make_settings(serve)
        ray = RayObservation(name="", nodes=self._nodes, serve=serve, settings=self._settings)
        return CapacityObservation(rays=(ray,))

    async def apply(self, ray: str, config: Mapping[str, Any]) -> None:  # noqa: ARG002 - there is one only
        """See RayRest.apply."""
        await self._current().apply(config)

    async def read_log(self, ray: str, actor_id: str, *, lines: int) -> str:  # noqa: ARG002 - there is one only
        """See RayRest.read_log."""
        return await self._current().read_log(actor_id, lines=lines)

    async def resize(self, plans: Sequence[PoolPlan], pools: Sequence[GPUPool]) -> bool:  # noqa: ARG002
        """A machine has the nodes it has."""
        return False

    def _current(self) -> RayRest:
        if self._rest is None:
            raise CapacityAway("Ray is starting")
        return self._rest
