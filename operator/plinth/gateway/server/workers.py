"""A gateway of several processes: the parent starts workers, replaces the dead, reloads and drains them.

Each worker is a whole gateway on a core of its own. The kernel spreads connections over their listeners (SO_REUSEPORT).
The listeners are the parent's: what connects while a worker is replaced waits for the next one and is not refused.
To the controller the parent is the gateway; what it says and hears goes through the switchboard.

A worker that dies is replaced at once; one that dies young after a while that doubles, and its listener is closed for
so long, so that its clients go to the others. A worker from which nothing is heard is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plinth.gateway.server.control import ControlServer
from plinth.gateway.server.counter_server import serve_counters
from plinth.gateway.server.local import readiness
from plinth.gateway.server.monitor import MonitorServer
from plinth.gateway.server.peers import news_bytes
from plinth.gateway.server.shared_load import LoadBoard
from plinth.gateway.server.switchboard import Switchboard
from plinth.gateway.server.worker_lines import Place
from plinth.gateway.server.worker_process import WorkerProcess

log = logging.getLogger(__name__)

LANES_A_WORKER: Final = 2
"""While workers are reloaded there are those that drain and those that have taken their places."""
STEADY_SECONDS: Final = 5.0
"""A worker that lived so long did not die of its start."""
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 10.0
WATCH_SECONDS: Final = 1.0
DRAIN_GRACE_SECONDS: Final = 5.0
"""Beyond the deadline that workers drain by themselves."""
_BACKLOG: Final = 2048


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """Seconds."""

    command: tuple[str, ...]
    """Starts a worker; its place is added."""
    workers: int
    host: str
    port: int
    """0 picks one."""
    control: Path
    metrics_port: int | None = None
    """0 picks one; None for none of its own."""
    counts: bool = True
    """Limits are counted here for all workers: there is no Redis for that."""
    drain_seconds: float = 30.0
    """For workers that are replaced by a reload."""
    start_seconds: float = 20.0
    """From the start of a worker until it accepts clients."""
    silent_seconds: float = 20.0
    """A worker reports every two; one that is silent for so long hangs."""


class WorkerPool:
    """One gateway of several processes; `start`, then `wait`."""

    def __init__(self, options: PoolOptions) -> None:
        lanes = options.workers * LANES_A_WORKER
        self.address = ("", 0)
        """Where clients reach it, once started."""
        self._options = options
        self._board, self._memory = LoadBoard.create(lanes)
        self._news = os.memfd_create("plinth-news", os.MFD_CLOEXEC)
        os.ftruncate(self._news, news_bytes(lanes))
        self._counters = options.control.with_name(options.control.name + ".counters")
        self._wakes = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(lanes))
        self._free_lanes = list(reversed(range(lanes)))
        self._switchboard = Switchboard(self._board, self._wakes, self.drain)
        self.monitor = MonitorServer(
            metrics=self._metrics,
            readiness=lambda: readiness(
                draining=self._draining.is_set(), has_tables=self._switchboard.has_tables()
            ),
        )
        self._servers: dict[Path, asyncio.Server] = {}
        """By socket: the workers' counters, and the controller's."""
        self._listeners: dict[int, socket.socket] = {}
        """By place."""
        self._at: dict[int, WorkerProcess] = {}
        """Whose death makes its place empty."""
        self._delays: dict[int, float] = {}
        """That the last replacement at a place waited for, where it was needed young."""
        self._draining = asyncio.Event()
        self._over = asyncio.Event()
        self._watches: list[asyncio.Task[None]] = []
        self._followers: set[asyncio.Task[None]] = set()
        """One for each worker, until it has ended and been replaced."""
        self._reloads: set[asyncio.Task[bool]] = set()

    @property
    def control(self) -> ControlServer:
        """The gateway's end of the control socket."""
        return self._switchboard.control

    @property
    def identity(self) -> str:
        """Under which reports are sent."""
        return self._switchboard.reports.identity

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those alive, the draining included."""
        return list(self._switchboard.workers.values())

    async def start(self) -> None:
        """Returns when every worker accepts clients; raises OSError when the address is taken or a worker fails."""
        self.address = (self._options.host, self._options.port)
        # Alone at first: the kernel would let another gateway of this user share the address unseen.
        _bind(*self.address, shared=False).close()
        if self._options.metrics_port is not None:
            await self.monitor.listen(self._options.host, self._options.metrics_port)
        self._watches.append(asyncio.create_task(self._watch()))
        if self._options.counts:
            self._servers[self._counters] = await serve_counters(self._counters)
        for place in range(self._options.workers):
            self._at[place] = await self._start_worker(place)
        for worker in list(self._at.values()):
            if not await worker.settled:
                raise ChildProcessError("a worker ended before it accepted clients; its log says why")
        self._servers[self._options.control] = await self.control.listen(self._options.control)

    async def wait(self) -> None:
        """Returns when the last worker has drained."""
        await self._over.wait()

    def drain(self, deadline_seconds: float) -> None:
        """Accepts no more; the workers leave when their last request has ended. A second call hurries them."""
        for place in list(self._listeners):
            self._listeners.pop(place).close()
        for worker in self.workers:
            worker.leave(deadline_seconds)
        if not self._draining.is_set():
            self._draining.set()
            self._watches.append(asyncio.create_task(self._end_after(deadline_seconds + DRAIN_GRACE_SECONDS)))
        if not self._switchboard.workers:
            self._over.set()

    def reload_soon(self) -> None:
        """As `reload`, for a signal: how it ends is in the log."""
        task = asyncio.create_task(self.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def reload(self) -> bool:
        """Replaces each worker by a new one, which reads code and files anew; False when that could not be done.

        The old ones drain for as long as they may, while the new ones take all that comes.
        """
        if self._draining.is_set() or len(self._free_lanes) < self._options.workers:
            log.warning("not reloaded: workers still drain")
            return False
        for place in range(self._options.workers):
            try:
                worker = await self._start_worker(place)
            except OSError as error:
                log.error("not reloaded: %s", error)  # noqa: TRY400 - the reason is the system's
                return False
            if not await worker.settled:
                log.error("not reloaded: a new worker ended before it accepted clients")
                return False
            if self._draining.is_set():  # all have been told to leave: again would hurry them
                return False
            before, self._at[place] = self._at[place], worker
            before.leave(self._options.drain_seconds)
        return True

    async def close(self) -> None:
        """Ends what is left, also after a start that failed."""
        self._draining.set()
        for task in self._watches:
            task.cancel()
        while self._followers:
            for worker in self.workers:
                worker.kill()
            await asyncio.wait(self._followers, timeout=WATCH_SECONDS)  # one may be about to start another
        self.control.close()
        self.monitor.close()
        for path, server in self._servers.items():
            server.close()
            path.unlink(missing_ok=True)
        await asyncio.sleep(0)
        for listener in self._listeners.values():
            listener.close()
        for descriptor in (self._memory, self._news, *self._wakes):
            os.close(descriptor)
        self._board.close()

    async def _metrics(self) -> bytes:
        return (await self._switchboard.exposition()).encode()

    async def _start_worker(self, place: int) -> WorkerProcess:
        """Starts one and tells it all there is; raises OSError."""
        if place not in self._listeners:
            self._listeners[place] = listener = _bind(*self.address, shared=True)
            listener.listen(_BACKLOG)
            self.address = listener.getsockname()[:2]
        ours, theirs = socket.socketpair()
        given = Place(
            lane=self._free_lanes.pop(),
            lanes=self._board.lanes,
            control=theirs.fileno(),
            listener=self._listeners[place].fileno(),
            memory=self._memory,
            news=self._news,
            wakes=self._wakes,
            counters=str(self._counters.absolute()) if self._options.counts else "",
        )
        try:
            worker = await WorkerProcess.start(
                self._options.command, given, place=place, theirs=theirs, ours=ours
            )
        except OSError:
            self._free_lanes.append(given.lane)
            ours.close()
            raise
        self._switchboard.welcome(worker)
        if self._draining.is_set():
            worker.leave(0.0)
        follower = asyncio.create_task(self._follow(worker))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)
        return worker

    async def _follow(self, worker: WorkerProcess) -> None:
        """Hears a worker until it has ended."""
        while line := await worker.next_line():
            self._switchboard.on_line(worker, line)
        status = await worker.wait()
        self._switchboard.bury(worker)
        self._free_lanes.append(worker.lane)
        level = logging.INFO if worker.leaving else logging.ERROR
        log.log(level, "worker %d ended with status %d", worker.pid, status)
        if self._draining.is_set():
            if not self._switchboard.workers:
                self._over.set()
        elif self._at.get(worker.place) is worker:
            await self._replace(worker)

    async def _replace(self, worker: WorkerProcess) -> None:
        place = worker.place
        died_young = asyncio.get_running_loop().time() - worker.started_at < STEADY_SECONDS
        delay = self._delays[place] = (
            min(max(2 * self._delays.get(place, 0.0), FIRST_DELAY_SECONDS), LONGEST_DELAY_SECONDS)
            if died_young
            else 0.0
        )
        if delay:
            self._listeners.pop(place).close()
        while not await self._drains_within(delay):
            if self._at[place] is not worker:
                return  # a reload was faster
            try:
                self._at[place] = await self._start_worker(place)
            except OSError as error:
                log.error("no worker could be started: %s", error)  # noqa: TRY400 - the reason is the system's
                delay = LONGEST_DELAY_SECONDS
            else:
                return

    async def _drains_within(self, seconds: float) -> bool:
        """Waits so long, unless the gateway drains, which nothing must hold up."""
        try:
            async with asyncio.timeout(seconds):
                return await self._draining.wait()
        except TimeoutError:
            return False

    async def _watch(self) -> None:
        """Kills workers that hang, or never begin."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + WATCH_SECONDS
            await asyncio.sleep(WATCH_SECONDS)
            now = loop.time()
            for worker in self.workers:
                if now > due + WATCH_SECONDS:  # it was this process that stood still
                    worker.heard_at = now
                limit = self._options.silent_seconds if worker.listening else self._options.start_seconds
                if now - worker.heard_at > limit:
                    log.error("worker %d has been silent for %g s: killed", worker.pid, limit)
                    worker.kill()

    async def _end_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for worker in self.workers:
            log.warning("worker %d has not drained in time: killed", worker.pid)
            worker.kill()


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket at the address; `shared` with others of this gateway. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
