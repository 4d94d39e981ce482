"""Ray over HTTP: what runs (Serve applications), what there is (nodes), and one PUT that says what should run.

What the adapters behind the cycle's `Capacity` port are made of. Ray's dashboard answers all of it, so neither the cycle nor the
operator ever joins a Ray cluster or unpickles anything. Every failure to get an answer becomes CapacityAway,
here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from plinth.cluster.capacity import CapacityAway
from plinth.domain.fleet import Node
from plinth.domain.node_types import ACCELERATOR_LABEL, ACCELERATOR_MEMORY_LABEL

APPLICATIONS = "/api/serve/applications/"
NODES = "/api/v0/nodes?detail=1&limit=10000"


class TokenRefusedError(CapacityAway):
    """Ray answered, and does not take our token."""


@dataclass(frozen=True, kw_only=True)
class RayAnswer:
    """What Ray said: its live nodes, and `GET /api/serve/applications/` as it came."""

    nodes: tuple[Node, ...]
    serve: Mapping[str, Any]


class RayRest:
    """One Ray cluster's dashboard."""

    def __init__(
        self, address: str, token_file: Path | None = None, *, token: str = "", timeout_seconds: float = 10.0
    ) -> None:
        self._address = address.rstrip("/")
        self._token_file = token_file
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._last: tuple[bytes, bytes, RayAnswer] | None = None

    async def close(self) -> None:
        """Close the connections; the object can be used again afterwards."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def observe(self) -> RayAnswer:
        """Read nodes and applications; the same object again while nothing has changed. Raises CapacityAway."""
        nodes, serve = await asyncio.gather(self._call("GET", NODES), self._call("GET", APPLICATIONS))
        # Hundreds of applications are a megabyte: most passes only find that it is the one they know.
        if self._last is None or (nodes, serve) != self._last[:2]:
            self._last = (nodes, serve, self._parse(nodes, serve))
        return self._last[2]

    async def apply(self, config: Mapping[str, Any]) -> None:
        """Say what should run, whole. Raises CapacityAway."""
        await self._call("PUT", APPLICATIONS, config)

    async def read_log(self, actor_id: str, *, lines: int) -> str:
        """The last lines a replica's process wrote to stderr, also of a dead one. Raises CapacityAway."""
        path = f"/api/v0/logs/file?actor_id={actor_id}&suffix=err&lines={lines}"
        return (await self._call("GET", path)).decode(errors="replace")

    def _parse(self, nodes: bytes, serve: bytes) -> RayAnswer:
        try:
            rows = msgspec.json.decode(nodes)["data"]["result"]["result"]
            alive = [row for row in rows if row.get("state") == "ALIVE"]
            # In the order of their starts: of two with one address, the last is the one that is there.
            alive.sort(key=lambda row: row.get("start_time_ms") or 0)
            return RayAnswer(nodes=tuple(map(read_node, alive)), serve=msgspec.json.decode(serve))
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise CapacityAway(f"Ray at {self._address} gave no answer to read: {error!r}") from error

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, read_bufsize=2**20)
        try:
            async with self._session.request(
                method, self._address + path, json=body, headers=self._authorization()
            ) as response:
                if response.status >= 400:  # noqa: PLR2004 - HTTP's own line between success and failure
                    text = (await response.text())[:400]
                    refused = TokenRefusedError if response.status in {401, 403} else CapacityAway
                    raise refused(f"Ray answered {response.status} to {method} {path}: {text}")
                return await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise CapacityAway(f"Ray at {self._address} does not answer: {error!r}") from error

    def _authorization(self) -> dict[str, str]:
        token = self._token_file.read_text().strip() if self._token_file else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}


def read_node(row: Mapping[str, Any]) -> Node:
    """One row of Ray's node state as a Node.

    Memory is what Ray itself hands out (`resources_total.memory`), so that the plan and Ray never disagree.
    """
    resources = row.get("resources_total") or {}
    labels = dict(row.get("labels") or {})
    accelerators = int(resources.get("GPU", 0))
    kind = labels.get(ACCELERATOR_LABEL) or labels.get("ray.io/accelerator-type") or "GPU"
    return Node(
        node_id=row["node_id"],
        address=row.get("node_ip", ""),
        labels=labels,
        cpus=int(resources.get("CPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        accelerator=kind if accelerators else "CPU",
        accelerators=accelerators,
        accelerator_memory_bytes=int(labels.get(ACCELERATOR_MEMORY_LABEL, 0)) * 2**20,
    )
