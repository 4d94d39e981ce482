"""A Ray with behaviour: applications take time to start and to go, replicas can be killed, and Ray can be away.

Answers in the real one's shape; `capacity_contract` is run on both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.capacity import CapacityAway, CapacityObservation, RayObservation
from plinth.cluster.ray_rest import RayAnswer, read_node
from plinth.desired.serve_config import ServeSettings
from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import EngineReport, PoolPlan, SlotPhase

NODE_ID = "aa" * 28
GIB = 2**30


def make_node_row(node_id: str = NODE_ID, *, memory_gib: int = 16) -> dict[str, Any]:
    return {
        "state": "ALIVE",
        "node_id": node_id,
        "node_ip": "127.0.0.1",
        "labels": {"ray.io/node-id": node_id},
        "resources_total": {"CPU": 2.0, "memory": float(memory_gib * GIB)},
    }


class FakeRay:
    """One Ray as `RayRest` shows it, and the replicas on it. `clock` is the test's own time."""

    def __init__(
        self, *, start_seconds: float = 3.0, stop_seconds: float = 1.0, host: str = "127.0.0.1"
    ) -> None:
        """`host` is where all replicas listen, each on a port of its own."""
        self.now = 0.0
        self.host = host
        self.away = False
        self.puts: list[dict[str, Any]] = []
        self.broken: dict[str, str] = {}
        """Engine failure by revision."""
        self.tells: EngineFigures | None = None
        self.fault = ""
        """What every ready replica says of itself."""
        self.node_rows = [make_node_row()]
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._applications: dict[str, dict[str, Any]] = {}
        self._ports = itertools.count(30_000)

    async def observe(self) -> RayAnswer:
        self._refuse_when_away()
        return RayAnswer(nodes=tuple(map(read_node, self.node_rows)), serve=self.applications())

    def applications(self) -> dict[str, Any]:
        """The answer to `GET /api/serve/applications/`."""
        gone = [name for name, app in self._applications.items() if app.get("gone_at", 1e18) <= self.now]
        for name in gone:
            del self._applications[name]
        return {
            "applications": {name: self._details(name, app) for name, app in self._applications.items()},
            "target_groups": [self._targets(name, app) for name, app in self._applications.items()],
        }

    async def apply(self, config: Mapping[str, Any]) -> None:
        self._refuse_when_away()
        self.puts.append(deepcopy(dict(config)))
        wanted = {each["name"]: each for each in config["applications"]}
        for name, app in self._applications.items():
            if name not in wanted:
                app.setdefault("gone_at", self.now + self._stop_seconds)
        for name, app_config in wanted.items():
            if name not in self._applications or self._applications[name]["config"] != app_config:
                self._applications[name] = {
                    "config": deepcopy(app_config),
                    "put_at": self.now,
                    "port": next(self._ports),
                    "dead": [],
                }

    async def read_log(self, actor_id: str, *, lines: int) -> str:
        self._refuse_when_away()
        return f"INFO starting\nRuntimeError: {actor_id} ran out of luck\n"[-lines * 100 :]

    async def deliver(self, host: str, port: int, slot: str, token: str) -> bool:
        return slot in self._applications

    async def report(self, host: str, port: int, slot: str) -> EngineReport | None:
        app = self._applications.get(slot)
        if app is None or (host, port) != (self.host, app["port"]):
            return None
        revision = slot.split(".")[2]
        if revision in self.broken:
            return EngineReport(phase=SlotPhase.FAILED, message=self.broken[revision])
        if self.now - app["put_at"] < self._start_seconds:
            return EngineReport(phase=SlotPhase.LOADING, bytes_done=1, bytes_total=2, eta_seconds=1)
        return EngineReport(
            phase=SlotPhase.READY, figures=self.tells, start_milliseconds=412, fault=self.fault
        )

    def port_of(self, name: str) -> int:
        """Where a replica listens; 0 where there is none."""
        return int(self._applications[name]["port"]) if name in self._applications else 0

    def kill(self, name: str) -> None:
        """Its process dies; Serve would start another in its place."""
        app = self._applications[name]
        app["dead"].append({"actor_id": f"actor-{name}", "state": "STOPPED", "pid": 1})
        app["put_at"] = self.now

    def lose_everything(self) -> None:
        """Ray died and was started anew."""
        self._applications.clear()

    def remove_behind_our_back(self, name: str) -> None:
        """Somebody else's `serve delete`."""
        del self._applications[name]

    @property
    def names(self) -> list[str]:
        return sorted(name for name, app in self._applications.items() if "gone_at" not in app)

    def _refuse_when_away(self) -> None:
        if self.away:
            raise CapacityAway("Ray does not answer")

    def _is_running(self, app: dict[str, Any]) -> bool:
        return bool(self.now - app["put_at"] >= self._start_seconds / 3)

    def _details(self, name: str, app: dict[str, Any]) -> dict[str, Any]:
        deleting = "gone_at" in app
        running = self._is_running(app)
        node_id = _node_id(app["config"])
        replica = {"state": "RUNNING", "pid": 7, "node_id": node_id, "actor_id": f"actor-{name}"}
        return {
            "name": name,
            "status": "DELETING" if deleting else "RUNNING" if running else "DEPLOYING",
            "message": "",
            "deployed_app_config": None if deleting else deepcopy(app["config"]),
            "deployments": {
                "replica": {
                    "message": "",
                    "replicas": [replica] if running else [],
                    "recent_dead_replicas": list(app["dead"]),
                }
            },
        }

    def _targets(self, name: str, app: dict[str, Any]) -> dict[str, Any]:
        running = self._is_running(app)
        target = (
            {"ip": self.host, "port": app["port"], "name": f"SERVE_REPLICA::{name}#replica#x"}
            if running
            else {"ip": self.host, "port": 8000, "name": "SERVE_PROXY_ACTOR-x"}
        )
        return {"app_name": name, "protocol": "HTTP", "targets": [target]}


def _node_id(config: Mapping[str, Any]) -> str:
    """Where the application was told to run."""
    for deployment in config.get("deployments", ()):
        return str(deployment["placement_group_bundle_label_selector"][0]["ray.io/node-id"])
    return NODE_ID


class OneRay:
    """The `Capacity` port over one fake Ray."""

    def __init__(self, ray: FakeRay, settings: ServeSettings) -> None:
        self.ray = ray
        self.settings = settings
        self.resized: list[tuple[PoolPlan, ...]] = []

    async def observe(self) -> CapacityObservation:
        try:
            answer = await self.ray.observe()
        except CapacityAway:
            return CapacityObservation(
                rays=(RayObservation(name="", nodes=(), serve=None, settings=self.settings),)
            )
        ray = RayObservation(name="", nodes=answer.nodes, serve=answer.serve, settings=self.settings)
        return CapacityObservation(rays=(ray,))

    async def apply(self, ray: str, config: Mapping[str, Any]) -> None:
        await self.ray.apply(config)

    async def read_log(self, ray: str, actor_id: str, *, lines: int) -> str:
        return await self.ray.read_log(actor_id, lines=lines)

    async def resize(self, plans: Sequence[PoolPlan], pools: Sequence[GPUPool]) -> bool:
        self.resized.append(tuple(plans))
        return False
