"""`--workers`: the gateway's own command line with several processes, as clients, the controller and init see it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plinth.domain.access import AccessTable, KeyRecord, Limit, PolicyRecord
from plinth.domain.control_lines import encode_access
from plinth.domain.traffic import ModelLoad
from plinth.gateway.options import MOST_WORKERS, parse_options
from plinth.gateway.server.cores import usable_cores
from plinth.tests.gateway.harness import (
    MODEL,
    STREAMING,
    Answer,
    Child,
    Connection,
    Controller,
    Seen,
    Upstream,
    answer,
    eventually,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    scenario,
    start_gateway_process,
    stream,
)

pytestmark = pytest.mark.process
KEY = "sk-plinth-" + "k" * 43
EVERYBODY = AccessTable(version=1, requires_key=False)


@dataclass
class Running:
    """A gateway with a controller and one replica."""

    child: Child
    controller: Controller
    upstream: Upstream
    connections: list[Connection] = field(default_factory=list)

    @property
    def load(self) -> ModelLoad:
        return self.controller.last.models[MODEL]

    def workers(self) -> set[int]:
        pid = self.child.process.pid
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    async def connect(self) -> Connection:
        host, _, port = json.loads(self.child.announced)["listening"].rpartition(":")
        connection = Connection(*await asyncio.open_connection(host, port))
        self.connections.append(connection)
        return connection

    async def ask(self) -> Answer:
        connection = await self.connect()
        try:
            return await connection.ask()
        finally:
            connection.close()


@asynccontextmanager
async def running(folder: Path, *flags: str) -> AsyncIterator[Running]:
    child = await start_gateway_process(folder, *flags)
    controller = await Controller.connect(folder / "g.sock")
    async with replicas(None) as (upstream,):
        made = Running(child, controller, upstream)
        try:
            controller.send(encode_access(EVERYBODY))
            await controller.apply(make_table(make_model(make_replica(upstream.port))))
            yield made
        finally:
            for connection in made.connections:
                connection.close()
            await controller.close()
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
            await child.process.wait()


@scenario
async def test_several_workers_are_one_gateway_to_clients_and_to_the_controller(tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        assert len(gateway.workers()) == 2
        answers = await asyncio.gather(*[gateway.ask() for _ in range(40)])
        assert {answer.status for answer in answers} == {200}
        await eventually(lambda: gateway.load.completed_total == 40)
        announced = json.loads(gateway.child.announced)
        assert {report.gateway for _, report in gateway.controller.reports} == {announced["gateway"]}


@scenario
async def test_one_worker_needs_no_parent(tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "1") as gateway:
        assert not gateway.workers()
        assert (await gateway.ask()).status == 200


@scenario
async def test_a_worker_takes_no_more_memory_than_a_gateway_may(tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        await asyncio.gather(*[gateway.ask() for _ in range(40)])
        for pid in gateway.workers():
            status = Path(f"/proc/{pid}/status").read_text()
            resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
            assert resident < 60


@scenario
async def test_sigterm_lets_the_streams_of_all_workers_end_and_then_every_process_leaves(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        gateway.upstream.behave = stream(30, every=0.05)
        streaming = [await gateway.connect() for _ in range(8)]
        for connection in streaming:
            connection.send(request_bytes(body=STREAMING))
        await eventually(lambda: len(gateway.upstream.seen) == 8)
        pids = gateway.workers()
        gateway.child.process.terminate()
        for connection in streaming:
            assert (await connection.answer()).body.endswith(b"[DONE]\n\n")
        assert await gateway.child.process.wait() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert [path.name for path in tmp_path.iterdir()] == ["secret"], "no socket is left"


@scenario
async def test_sighup_puts_new_workers_in_the_place_of_the_old_ones_and_no_client_is_refused(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        before = gateway.workers()
        gateway.child.process.send_signal(signal.SIGHUP)
        while gateway.workers() & before:
            assert (await gateway.ask()).status == 200
            await asyncio.sleep(0.01)
        assert len(gateway.workers()) == 2


@scenario
async def test_what_the_tables_say_a_worker_that_starts_later_knows_too(tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        for pid in (before := gateway.workers()):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(gateway.workers() - before) == 2)
        assert (await gateway.ask()).status == 200


@scenario
async def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        pids = gateway.workers()
        gateway.child.process.kill()
        await eventually(lambda: not any(_is_running(pid) for pid in pids))


# --- what all workers share ----------------------------------------------------------------------------------


def key(*policies: str) -> KeyRecord:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return KeyRecord(id="pk_0123456789ab", tenant="team", digest=digest, policies=policies)


def limited(*limits: Limit) -> AccessTable:
    policy = PolicyRecord(name="team/some", limits=limits)
    return AccessTable(version=2, keys=(key(policy.name),), policies=(policy,))


async def statuses(gateway: Running, count: int) -> Counter[int]:
    """Of requests by the key, all at once, each on a connection of its own."""

    async def ask() -> int:
        connection = await gateway.connect()
        answer = await connection.ask(headers={"Authorization": f"Bearer {KEY}"})
        connection.close()
        return answer.status

    return Counter(await asyncio.gather(*[ask() for _ in range(count)]))


@scenario
async def test_a_key_that_is_revoked_opens_no_worker_a_second_later(tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2") as gateway:
        gateway.controller.send(encode_access(limited()))
        await asyncio.sleep(0.5)
        assert await statuses(gateway, 20) == {200: 20}
        gateway.controller.send(encode_access(AccessTable(version=3)))
        await asyncio.sleep(1.0)
        assert await statuses(gateway, 20) == {401: 20}


@scenario
async def test_a_limit_without_redis_holds_over_all_workers(tmp_path: Path) -> None:
    limit = Limit(dimension="requests", window_seconds=3600, amount=25, scope="key")
    async with running(tmp_path, "--workers", "2") as gateway:
        gateway.controller.send(encode_access(limited(limit)))
        await asyncio.sleep(0.5)
        assert await statuses(gateway, 60) == {200: 25, 429: 35}


@pytest.mark.alone
@scenario
async def test_a_replica_gets_from_all_workers_together_what_it_holds_and_the_rest_waits(
    tmp_path: Path,
) -> None:
    under_way = 0
    found: list[int] = []
    """By requests that come, how many are there with them."""

    async def count(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way
        under_way += 1
        found.append(under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        await answer()(upstream, seen, writer)

    async with running(tmp_path, "--workers", "2") as gateway:
        gateway.upstream.behave = count
        route = make_model(make_replica(gateway.upstream.port, concurrency=4))
        await gateway.controller.apply(make_table(route, version=2))
        answers = await asyncio.gather(*[gateway.ask() for _ in range(40)])
        assert {answer.status for answer in answers} == {200}
        # Between two looks at each other, a millisecond, two workers may give out the same room: once, at the burst.
        assert sum(count > 4 for count in found) <= 4, found
        assert max(found) >= 3, "and it is made use of"


def test_the_number_of_workers_is_given_or_that_of_the_cores(capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--listen", "127.0.0.1:0", "--control", "c", "--secret-file", "s"]
    assert parse_options(needed).workers == 1
    assert parse_options([*needed, "--workers", "4"]).workers == 4
    assert parse_options([*needed, "--workers", "auto"]).workers == usable_cores()
    for wrong in ("0", "-1", "many", str(MOST_WORKERS + 1)):
        with pytest.raises(SystemExit):
            parse_options([*needed, "--workers", wrong])
        assert f"must be `auto` or 1 to {MOST_WORKERS}, not '{wrong}'" in capsys.readouterr().err


def _is_running(pid: int) -> bool:
    """Orphans that have ended may still be known to a first process that does not ask after them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
