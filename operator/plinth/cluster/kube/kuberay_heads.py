"""The heads of all RayClusters: each is asked on every pass, none can hold a pass up."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import SECRET
from plinth.cluster.ray_rest import RayAnswer, RayRest, TokenRefusedError
from plinth.desired import ray_names
from plinth.domain.fleet import Node

PATIENCE_SECONDS = 1.0
"""How long one pass waits for a head. A slower answer is taken by the pass after it has come."""
CALL_SECONDS = 5.0
"""How long a call may take: a PUT is a write that fencing counts with."""

log = logging.getLogger(__name__)


def dashboard_address(host: str) -> str:
    """Where a head of this address answers."""
    return (
        f"http://[{host}]:{ray_names.DASHBOARD_PORT}"
        if ":" in host
        else f"http://{host}:{ray_names.DASHBOARD_PORT}"
    )


@dataclass
class _Head:
    """One head's pod; a new pod is a new one of these."""

    address: str
    uid: str
    """Of its RayCluster: one of the same name that was made anew has another token."""
    rest: RayRest
    reading: asyncio.Task[RayAnswer] | None = None

    async def close(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.wait({self.reading})
        await self.rest.close()


@dataclass
class RayHeads:
    """Knows how to reach the heads, and what was last seen of each RayCluster's nodes."""

    client: KubeClient
    dashboard: Callable[[str], str]
    wake: Callable[[], None]
    nodes: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    """Of each RayCluster, as last listed: while its head is away they stay."""
    _heads: dict[str, _Head] = field(default_factory=dict)

    async def look(self, heads: Mapping[str, str], uids: Mapping[str, str]) -> Mapping[str, RayAnswer | None]:
        """Ask every head at its address; None for one that is away."""
        await self._forget_all_but(heads, uids)
        answers = await asyncio.gather(
            *(self._ask(ray, heads.get(ray, ""), uid) for ray, uid in uids.items())
        )
        return dict(zip(uids, answers, strict=True))

    def rest(self, ray: str) -> RayRest:
        """The head as last reached. Raises CapacityAway."""
        if ray not in self._heads:
            raise CapacityAway(f"RayCluster {ray} has no head that could be asked")
        return self._heads[ray].rest

    def forget_answer(self, ray: str) -> None:
        """What was asked before a change says nothing of after it."""
        head = self._heads[ray]
        if head.reading is not None:
            head.reading.cancel()
            head.reading = None

    async def close(self) -> None:
        """Close all connections."""
        for head in self._heads.values():
            await head.close()
        self._heads.clear()

    async def _ask(self, ray: str, address: str, uid: str) -> RayAnswer | None:
        if not address:
            return None
        try:
            answer = await self._read(await self._reach(ray, address, uid))
        except TokenRefusedError:
            await self._heads.pop(ray).close()
            return None
        except CapacityAway as error:
            log.info("RayCluster %s is away: %s", ray, error)
            return None
        if answer is not None:
            self.nodes[ray] = answer.nodes
        return answer

    async def _reach(self, ray: str, address: str, uid: str) -> _Head:
        if ray not in self._heads:
            token = await self._token(ray)
            rest = RayRest(self.dashboard(address), token=token, timeout_seconds=CALL_SECONDS)
            self._heads[ray] = _Head(address=address, uid=uid, rest=rest)
        return self._heads[ray]

    async def _read(self, head: _Head) -> RayAnswer | None:
        """The head's answer; None if it does not come in time. One that was late before is not waited for again."""
        patience = 0.0 if head.reading else PATIENCE_SECONDS
        reading = head.reading = head.reading or asyncio.create_task(head.rest.observe())
        done, _ = await asyncio.wait({reading}, timeout=patience)
        if done:
            head.reading = None
            return reading.result()
        if patience:
            reading.add_done_callback(self._came_late)
        return None

    def _came_late(self, reading: asyncio.Task[RayAnswer]) -> None:
        if not reading.cancelled() and reading.exception() is None:
            self.wake()

    async def _token(self, ray: str) -> str:
        namespace, name = ray.split("/")
        try:
            secret = await self.client.get(SECRET, namespace, name)
        except (KubeAway, KubeRefused) as error:
            raise CapacityAway(f"the token of RayCluster {ray} cannot be read: {error}") from error
        if secret is None:
            raise CapacityAway(f"RayCluster {ray} has no token yet")
        return base64.b64decode((secret.get("data") or {}).get(ray_names.TOKEN_KEY, "")).decode()

    async def _forget_all_but(self, heads: Mapping[str, str], uids: Mapping[str, str]) -> None:
        for ray, head in list(self._heads.items()):
            if heads.get(ray) != head.address or uids.get(ray) != head.uid:
                await self._heads.pop(ray).close()
        for ray in self.nodes.keys() - uids.keys():
            del self.nodes[ray]
