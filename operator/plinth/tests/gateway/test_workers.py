"""A gateway of several real processes: what clients and the controller see of it while workers come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.access import AccessTable
from plinth.domain.control_lines import encode_access, encode_shutdown
from plinth.domain.traffic import ModelLoad
from plinth.gateway.server import workers as workers_module
from plinth.gateway.server.workers import PoolOptions, WorkerPool
from plinth.tests.gateway.harness import (
    MODEL,
    SECRET,
    STREAM_HEAD,
    STREAMING,
    Answer,
    Connection,
    Controller,
    Seen,
    Upstream,
    event,
    eventually,
    framed,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    scenario,
    stream,
)

pytestmark = pytest.mark.process


async def until(condition: Callable[[], Any]) -> None:
    """Starting Python may take seconds on a machine that has other work."""
    await eventually(condition, seconds=15)


@dataclass
class Pool:
    """A pool of two workers with a controller and one replica."""

    pool: WorkerPool
    controller: Controller
    upstream: Upstream
    folder: Path
    connections: list[Connection] = field(default_factory=list)

    @property
    def load(self) -> ModelLoad:
        """As last reported; while no worker lives a report names no model."""
        return next(r.models[MODEL] for _, r in reversed(self.controller.reports) if MODEL in r.models)

    @property
    def pids(self) -> set[int]:
        return {worker.pid for worker in self.pool.workers}

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection(*self.pool.address))
        self.connections.append(connection)
        return connection

    async def ask(self) -> Answer:
        connection = await self.connect()
        try:
            return await connection.ask()
        finally:
            connection.close()

    async def ask_often(self, count: int) -> None:
        """Each on a connection of its own, so that both workers get some."""
        answers = await asyncio.gather(*(self.ask() for _ in range(count)))
        assert {answer.status for answer in answers} == {200}

    async def metrics(self) -> dict[str, float]:
        """As one of the workers shows them."""
        connection = await self.connect()
        shown = (await connection.ask("/metrics", method="GET")).body.decode()
        lines = [line for line in shown.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


@asynccontextmanager
async def running_pool(folder: Path, **overrides: Any) -> AsyncIterator[Pool]:
    secret = folder / "secret"
    secret.write_text(SECRET)
    flags = ("--listen", "127.0.0.1:0", "--control", str(folder / "g.sock"), "--secret-file", str(secret))
    values: dict[str, Any] = {
        "command": (sys.executable, "-m", "plinth.gateway", *flags, "--drain-seconds", "1"),
        "workers": 2,
        "host": "127.0.0.1",
        "port": 0,
        "control": folder / "g.sock",
    }
    pool = WorkerPool(PoolOptions(**(values | overrides)))
    try:
        await pool.start()
        controller = await Controller.connect(folder / "g.sock")
        async with replicas(None) as (upstream,):
            running = Pool(pool, controller, upstream, folder)
            try:
                controller.send(encode_access(AccessTable(version=1, requires_key=False)))
                await controller.apply(make_table(make_model(make_replica(upstream.port))))
                yield running
            finally:
                for connection in running.connections:
                    connection.close()
                await controller.close()
    finally:
        await pool.close()


def break_new_workers(folder: Path) -> None:
    """Those that start from now on end at once: they find no secret."""
    (folder / "secret").rename(folder / "hidden")


def mend_new_workers(folder: Path) -> None:
    """They find it again."""
    (folder / "hidden").rename(folder / "secret")


@pytest.fixture(autouse=True)
def _in_the_source_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setattr(workers_module, "STEADY_SECONDS", 0.0)


@scenario
async def test_the_controller_sees_one_gateway_and_every_request_counted_once(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        await running.ask_often(40)
        await until(lambda: running.load.completed_total == 40)
        assert (running.load.arrivals_total, running.load.output_tokens_total) == (40, 200)
        shares = [
            worker.report.models[MODEL].arrivals_total for worker in running.pool.workers if worker.report
        ]
        assert sum(shares) == 40
        assert min(shares) > 0, "both were given some"
        assert {report.gateway for _, report in running.controller.reports} == {running.pool.identity}


@scenario
async def test_a_killed_worker_loses_neither_counts_nor_clients_and_is_replaced(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        await running.ask_often(30)
        victim, other = sorted(running.pids)
        os.kill(victim, signal.SIGKILL)
        await running.ask_often(30)
        await until(lambda: len(running.pids) == 2 and victim not in running.pids)
        assert other in running.pids
        await running.ask_often(10)
        await until(lambda: running.load.completed_total >= 70)
        await asyncio.sleep(0.6)
        assert (running.load.arrivals_total, running.load.completed_total) == (70, 70)
        assert running.load.in_flight == 0
        versions = [report.table_version for _, report in running.controller.reports]
        assert versions == sorted(versions), "a worker that is not ready does not make the gateway unready"


@scenario
async def test_while_workers_die_again_and_again_nobody_is_refused_and_the_totals_hold(
    tmp_path: Path,
) -> None:
    async with running_pool(tmp_path) as running:
        answered = asked = 0

        async def keep_asking() -> None:
            nonlocal answered, asked
            for _ in range(60):
                asked += 1
                connection = await running.connect()
                try:
                    answer = await connection.ask()
                    answered += answer.complete
                except (asyncio.IncompleteReadError, ConnectionResetError):
                    pass  # its worker died
                finally:
                    connection.close()

        async def keep_killing() -> None:
            for _ in range(5):
                os.kill(min(running.pids), signal.SIGKILL)
                await asyncio.sleep(0.3)
                await until(lambda: len(running.pids) == 2)

        await asyncio.gather(keep_killing(), *(keep_asking() for _ in range(8)))
        await until(lambda: running.load.in_flight == 0 and running.load.completed_total >= answered)
        load = running.load
        assert answered > asked / 2
        assert load.completed_total <= load.arrivals_total <= asked
        assert load.completed_total - answered <= 5 * 8, "at most what was under way at each death"


@scenario
async def test_a_worker_that_never_comes_up_costs_no_client_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pool(tmp_path) as running:
        monkeypatch.setattr(workers_module, "STEADY_SECONDS", 60.0)
        break_new_workers(tmp_path)
        victim = min(running.pids)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(running.pids) == 1)
        await running.ask_often(20)
        mend_new_workers(tmp_path)
        await until(lambda: len(running.pids) == 2)


@scenario
async def test_a_reload_ends_no_stream_and_refuses_no_client(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        may_end = asyncio.Event()

        async def until_told(_: Upstream, __: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + framed(event("first")))
            await may_end.wait()
            writer.write(framed(event("last")) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")

        running.upstream.behave = until_told
        streaming = [await running.connect() for _ in range(16)]
        for connection in streaming:
            connection.send(request_bytes(body=STREAMING))
        await until(lambda: running.load.in_flight == 16)
        running.upstream.behave = stream(1)
        before = running.pids
        reload = asyncio.ensure_future(running.pool.reload())
        while not reload.done():
            await running.ask_often(4)
        assert reload.result()
        assert before < running.pids, "the old ones still drain"
        assert not await running.pool.reload(), "one reload at a time"
        may_end.set()
        for connection in streaming:
            answer = await connection.answer()
            assert answer.complete
            assert b"last" in answer.body
        await until(lambda: not before & running.pids)
        assert len(running.pids) == 2


@scenario
async def test_a_reload_that_fails_leaves_the_old_workers_serving(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        before = running.pids
        break_new_workers(tmp_path)
        assert not await running.pool.reload()
        assert running.pids == before
        await running.ask_often(10)


@scenario
async def test_a_drain_lets_streams_end_and_then_all_leave(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        running.upstream.behave = stream(10, every=0.05)
        connection = await running.connect()
        connection.send(request_bytes(body=STREAMING))
        await until(lambda: running.load.in_flight == 1)
        running.controller.send(encode_shutdown(5.0))
        assert (await connection.answer()).complete
        await running.pool.wait()
        assert not running.pids
        with pytest.raises(ConnectionRefusedError):
            await running.connect()


@scenario
async def test_workers_whose_parent_is_gone_drain_and_leave(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        worker = running.pool.workers[0]
        worker._writer.close()
        await until(lambda: worker.pid not in running.pids)
        assert worker._process.returncode == 0


@scenario
async def test_a_worker_that_hangs_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "WATCH_SECONDS", 0.2)
    async with running_pool(tmp_path, silent_seconds=3.0) as running:
        victim = min(running.pids)
        os.kill(victim, signal.SIGSTOP)
        await until(lambda: len(running.pids) == 2 and victim not in running.pids)


@scenario
async def test_a_gateway_whose_workers_do_not_come_up_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError):
        async with running_pool(tmp_path, command=(sys.executable, "-c", "")):
            pass
    assert not (tmp_path / "g.sock").exists()


@scenario
async def test_another_gateway_cannot_slip_in_at_the_same_address(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        with pytest.raises(OSError, match="in use"):
            async with running_pool(tmp_path, port=running.pool.address[1], control=tmp_path / "other.sock"):
                pass


@scenario
async def test_any_worker_shows_the_metrics_of_all_and_no_counter_falls_when_one_dies(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as running:
        await running.ask_often(20)
        series = 'plinth_gateway_requests_total{code="200",endpoint="/v1/chat/completions",model="team/tiny",policy=""}'
        before = await running.metrics()
        assert before[series] == 20
        assert before["plinth_gateway_workers"] == 2
        assert before[f'plinth_gateway_replicas{{model="{MODEL}",state="Ready"}}'] == 1
        os.kill(max(running.pids), signal.SIGKILL)
        await until(lambda: len(running.pids) == 2 and all(item.listening for item in running.pool.workers))
        after = await running.metrics()
        assert after[series] == 20
        assert after["plinth_gateway_worker_deaths_total"] == 1
