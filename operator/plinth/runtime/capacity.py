"""The Ray that the cycle works on, which may be away, be started anew at another address, or be someone else's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plinth.cluster.ray_rest import CapacityAway, CapacityObservation, RayRest


class CurrentRay:
    """Delegates to the Ray attached now; with none attached, capacity is away."""

    def __init__(self) -> None:
        self._rest: RayRest | None = None

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
        """See RayRest.observe."""
        return await self._current().observe()

    async def apply(self, config: Mapping[str, Any]) -> None:
        """See RayRest.apply."""
        await self._current().apply(config)

    async def read_log(self, actor_id: str, *, lines: int) -> str:
        """See RayRest.read_log."""
        return await self._current().read_log(actor_id, lines=lines)

    def _current(self) -> RayRest:
        if self._rest is None:
            raise CapacityAway("Ray is starting")
        return self._rest
