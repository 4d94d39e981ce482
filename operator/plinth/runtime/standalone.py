"""One folder served on this machine: starts or adopts the gateway and Ray, runs the fleet cycle, drains at the end.

The gateway and Ray are processes of their own, marked with the folder's instance. When this process is killed they
go on serving; the next one finds them by the instance record, adopts what still lives and ends what does not belong.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.folder import FolderStore, watch
from plinth.cluster.gateway_link import GatewayLink
from plinth.cluster.key_store import KeyDB
from plinth.cluster.local_ray import (
    RayProcess,
    RayStartError,
    answers,
    end_leftovers,
    free_port,
    start_ray,
    stop_ray,
)
from plinth.cluster.model_reader import BackgroundModelReader, MachineReadings
from plinth.cluster.processes import end_processes
from plinth.cluster.replica_rest import ReplicaRest
from plinth.cluster.state_dir import Instance, ProcessRef, StateDir
from plinth.cluster.status_db import StatusDB
from plinth.controllers.cycle import FleetCycle, Pass
from plinth.controllers.execute import foreign_applications
from plinth.controllers.ports import Ports
from plinth.controllers.what_if import WhatIfs
from plinth.desired.serve_config import ServeSettings
from plinth.domain.access import AccessTable
from plinth.runtime.capacity import CurrentRay
from plinth.runtime.folder_access import FolderAccess
from plinth.runtime.folder_resources import FolderResources
from plinth.runtime.gateway_process import GatewayProcess, start_gateway, wait_until_ended
from plinth.runtime.plan_server import PlanServer

SUPERVISE_SECONDS = 1.0
MAX_FIRST_STARTS = 2


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What `plinth up` was asked for."""

    folder: Path
    host: str
    port: int
    ray_address: str | None = None
    """Dashboard of a Ray to join; None starts one on this machine."""
    ray_token_file: Path | None = None
    drain_seconds: float = 60.0


@dataclass
class Standalone:
    """A folder being served."""

    options: UpOptions
    on_pass: Callable[[Pass], None]
    say: Callable[[str], None]
    """One line for people: a step begins, or something went wrong."""
    state: StateDir = field(init=False)
    gateway: GatewayProcess | None = None
    ray: RayProcess | None = None
    link: GatewayLink = field(init=False)
    cycle: FleetCycle = field(init=False)
    store: FolderResources = field(init=False)
    access: FolderAccess = field(init=False)
    _capacity: CurrentRay = field(init=False)
    _replicas: ReplicaRest | None = None
    _plans: PlanServer | None = None
    _keys: KeyDB | None = None
    _latest: Pass | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain and end every process of this instance.

        Raises AlreadyRunningError, GatewayStartError, KeyStoreError, RayStartError, and what opening the status database
        raises.
        """
        self.state = StateDir.for_folder(self.options.folder)
        self.state.create()
        with self.state.acquire_lock():
            try:
                await self._start()
                await self._serve(stop)
            finally:
                await self._end()

    async def _start(self) -> None:
        self.state.ensure_secret()
        self.state.ensure_ray_token()
        self._replicas = ReplicaRest(self.state.secret_file)
        self._capacity = CurrentRay(self._settings)
        self._keys = KeyDB.open(self.state.keys_db)
        self.access = FolderAccess(self._keys)
        database = StatusDB.open(self.state.status_db)
        self.store = FolderResources(FolderStore(self.options.folder, database), lambda: self.access.keys)
        before = self.state.read_instance()
        self.ray = await self._find_ray(before)
        self.gateway = await self._adopt_or_start_gateway(before)
        self._record()
        self.link = GatewayLink(
            self.state.gateway_socket, first_version=int(time.time() * 1000), wake=self._wake, clock=time.time
        )
        models = BackgroundModelReader(
            MachineReadings(secrets_dir=self.options.folder / "secrets"), wake=self._wake, clock=time.time
        )
        ports = Ports(
            store=self.store,
            capacity=self._capacity,
            replicas=self._replicas,
            gateway=self.link,
            models=models,
        )
        self.cycle = FleetCycle(ports=ports, clock=time.time, on_pass=self._take_pass)
        self.link.start()
        await self._answer_plans()
        if self.options.ray_address is not None:
            await self._capacity.attach(self.options.ray_address, self.options.ray_token_file)
        elif self.ray is not None:
            await self._attach(self.ray)

    async def _answer_plans(self) -> None:
        """A model without its weights can be planned for, and not be served."""
        readings = MachineReadings(secrets_dir=self.options.folder / "secrets", weights_needed=False)
        self._plans = PlanServer(WhatIfs(latest=lambda: self._latest, readings=readings, clock=time.time))
        await self._plans.start_on_socket(str(self.state.plan_socket))

    def _take_pass(self, done: Pass) -> None:
        self._latest = done
        self.on_pass(done)

    async def _serve(self, stop: asyncio.Event) -> None:
        """Everything at once, until asked to stop or until one part cannot go on."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._follow_access()),  # first: the gateway admits nobody before
                group.create_task(self.cycle.run()),
                group.create_task(self._follow_folder()),
                group.create_task(self._keep_ray()),
                group.create_task(self._keep_gateway()),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _end(self) -> None:
        """Drain first: no request is cut by an end that was asked for."""
        if self._plans is not None:
            await self._plans.close()
        if self.gateway is not None and self.gateway.process.is_running() and hasattr(self, "link"):
            self.say("draining")
            self.link.shut_down(self.options.drain_seconds)
            await wait_until_ended(self.gateway, self.options.drain_seconds + 2)
        if hasattr(self, "link"):
            await self.link.close()
        if self.ray is not None:
            await stop_ray(self.ray, self.state.root.name)
        elif self.options.ray_address is not None:
            await self._leave_joined_ray()
        await self._capacity.detach()
        if self._replicas is not None:
            await self._replicas.close()
        if self._keys is not None:
            self._keys.close()
        await end_leftovers(self.state.root.name, keep=())
        self.state.remove_instance()

    async def _leave_joined_ray(self) -> None:
        """Take our replicas away from a Ray that goes on without us, and nobody else's."""
        serve = (await self._capacity.observe()).rays[0].serve
        if serve is None:
            self.say("the joined Ray does not answer: it could not be told to end our replicas")
            return
        try:
            others = foreign_applications(serve)
            await self._capacity.apply("", {"proxy_location": "HeadOnly", "applications": others})
        except CapacityAway as error:
            self.say(f"the joined Ray could not be told to end our replicas: {error}")

    async def _follow_access(self) -> None:
        # Read first: a table without policies would shut out the keys of an adopted gateway for a moment.
        self.store.read(time.time())
        await self.access.follow(lambda: self.store.policies, hand_over=self._admit_by, say=self.say)

    def _admit_by(self, table: AccessTable) -> None:
        self.link.admit_by(table)
        self.cycle.wake()  # statuses say how many keys there are

    async def _follow_folder(self) -> None:
        async for _ in watch(self.options.folder):
            self.cycle.wake()

    async def _keep_ray(self) -> None:
        """Start Ray when there is none; a Ray that dies is cleared away whole and started anew."""
        failures = 0
        while self.options.ray_address is None:
            if self.ray is None or not self.ray.process.is_running():
                await self._capacity.detach()
                try:
                    await self._start_ray()
                    failures = 0
                except RayStartError as error:
                    failures += 1
                    # Ray waits no longer than 30 s for its own parts; on a busy machine the second try is warm.
                    if self.ray is None and failures == MAX_FIRST_STARTS:
                        raise
                    self.say(f"{error}; trying again")
                    continue
            await asyncio.sleep(SUPERVISE_SECONDS)

    async def _start_ray(self) -> None:
        self.say("starting Ray" if self.ray is None else "Ray died; starting it again")
        keep = (self.gateway.process.pid,) if self.gateway else ()
        await end_leftovers(self.state.root.name, keep=keep)
        self.ray = await start_ray(
            self.state.root.name, self.state.ray_token_file, self.state.logs / "ray.log"
        )
        await self._attach(self.ray)
        self._record()

    async def _keep_gateway(self) -> None:
        while True:
            await asyncio.sleep(SUPERVISE_SECONDS)
            if self.gateway is None or not self.gateway.process.is_running():
                self.say("the gateway died; starting it again")
                self.gateway = await self._start_gateway()
                self._record()

    async def _adopt_or_start_gateway(self, before: Instance | None) -> GatewayProcess:
        """The gateway that a killed `up` left serving, if it listens where this one should; else a new one."""
        running = before.process("gateway") if before else None
        if before is not None and running is not None and running.is_running():
            if before.listen == self._listen:
                return GatewayProcess(process=running, host=self.options.host, port=self.options.port)
            await end_processes([running.pid], patience_seconds=self.options.drain_seconds)
        return await self._start_gateway()

    async def _start_gateway(self) -> GatewayProcess:
        return await start_gateway(
            self.state.root.name,
            host=self.options.host,
            port=self.options.port,
            control=self.state.gateway_socket,
            secret_file=self.state.secret_file,
            log_file=self.state.logs / "gateway.log",
        )

    async def _find_ray(self, before: Instance | None) -> RayProcess | None:
        """The Ray that a killed `up` left running, if it still answers."""
        running = before.process("ray") if before else None
        if before is None or running is None or self.options.ray_address is not None:
            return None
        found = RayProcess(process=running, dashboard=before.ray_address)
        return found if await answers(found, self.state.ray_token_file) else None

    async def _attach(self, ray: RayProcess) -> None:
        await self._capacity.attach(ray.dashboard, self.state.ray_token_file)
        self.cycle.wake()

    def _wake(self) -> None:
        self.cycle.wake()

    def _settings(self, serve: Mapping[str, Any]) -> ServeSettings:
        """What is the same for all replicas; Serve's own HTTP options are said again as they are once it runs."""
        options = serve.get("http_options") or {}
        return ServeSettings(
            secret_file=str(self.state.secret_file),
            secrets_dir=str(self.options.folder / "secrets"),
            cache_dir=str(model_cache_dir()),
            http_host=options.get("host") or "127.0.0.1",
            http_port=options.get("port") or free_port(),
            trust_remote_code=True,  # the planner decides, by pool; all pools share this one Ray
        )

    @property
    def _listen(self) -> str:
        return f"{self.options.host}:{self.options.port}"

    def _record(self) -> None:
        """Write down what runs, for the next `up` and for `plinth status`."""
        parts = (self.gateway, self.ray)
        self.state.write_instance(
            Instance(
                folder=str(self.options.folder),
                endpoint=self.gateway.endpoint if self.gateway else "",
                listen=self._listen,
                ray_address=self.options.ray_address or (self.ray.dashboard if self.ray else ""),
                processes=(ProcessRef.of("up", os.getpid()), *(part.process for part in parts if part)),
                started_at=time.time(),
            )
        )


def model_cache_dir() -> Path:
    """Where downloaded models are kept, shared by all folders."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "plinth" / "models"
