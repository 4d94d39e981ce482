"""Leader election in virtual time, over an API server whose network delays, drops and loses what it likes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.cluster.kube.client import WRITE_SECONDS
from plinth.cluster.kube.errors import KubeAway, NotLeaderError
from plinth.cluster.kube.kinds import CONFIG_MAP, LEASE
from plinth.cluster.kube.lease import DURATION_SECONDS, LOOK_SECONDS, SAFE_SECONDS, Election
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time, virtual_now
from plinth.tests.searching import examples

pytestmark = pytest.mark.process


async def for_ever() -> None:
    await asyncio.Event().wait()


def make_election(server: FakeApiServer, identity: str) -> Election:
    return Election(
        server.client(),
        namespace="plinth-system",
        name="plinth-operator",
        identity=identity,
        clock=virtual_now,
    )


@contextlib.asynccontextmanager
async def candidate(
    election: Election, lead: Callable[[], Awaitable[None]] = for_ever
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(election.run(lead))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], bool], *, within: float) -> float:
    """Wait until it is so; returns how long that took."""
    start = virtual_now()
    while not condition():
        assert virtual_now() - start < within, "not in time"
        await asyncio.sleep(0.01)
    return virtual_now() - start


def lease_of(server: FakeApiServer) -> dict[str, object]:
    spec = server.objects["/apis/coordination.k8s.io/v1/leases", "plinth-system", "plinth-operator"]["spec"]
    return dict(spec)


async def away(_method: str, _path: str) -> None:
    raise KubeAway("the API server is away")


def test_the_first_candidate_leads_at_once_and_renews_at_most_once_in_five_seconds() -> None:
    async def story() -> None:
        server = FakeApiServer()
        election = make_election(server, "a")
        with pytest.raises(NotLeaderError):
            election.check()
        async with candidate(election):
            assert await until(lambda: election.leads, within=1) < 0.1
            await asyncio.sleep(300)
            election.check()
            assert 58 <= len(server.writes) <= 61

    run_in_virtual_time(story())


def test_a_second_candidate_waits_and_takes_over_only_a_full_duration_after_the_last_renewal_it_saw() -> None:
    async def story() -> None:
        server = FakeApiServer()
        first, second = make_election(server, "a"), make_election(server, "b")
        async with candidate(second):
            async with candidate(first) as task:
                await until(lambda: first.leads or second.leads, within=1)
                leader, other = (first, second) if first.leads else (second, first)
                await asyncio.sleep(60)
                assert leader.leads
                assert not other.leads
            del task

    run_in_virtual_time(story())


def test_after_a_leader_is_killed_the_other_leads_between_one_duration_and_one_look_later() -> None:
    async def story() -> None:
        server = FakeApiServer()
        dead, heir = make_election(server, "dead"), make_election(server, "heir")
        async with candidate(dead):
            await until(lambda: dead.leads, within=1)
        # Killed, not ended: what it gave back is undone.
        server.put(
            "/apis/coordination.k8s.io/v1/leases",
            {
                "metadata": {"namespace": "plinth-system", "name": "plinth-operator"},
                "spec": {**lease_of(server), "holderIdentity": "dead", "leaseDurationSeconds": 15},
            },
        )
        async with candidate(heir):
            waited = await until(lambda: heir.leads, within=30)
            assert DURATION_SECONDS <= waited <= DURATION_SECONDS + LOOK_SECONDS + 0.1
            assert lease_of(server)["leaseTransitions"] == 1

    run_in_virtual_time(story())


def test_a_container_restarted_in_its_pod_takes_its_own_lease_back_at_once() -> None:
    async def story() -> None:
        server = FakeApiServer()
        before = make_election(server, "pod-1")
        async with candidate(before):
            await until(lambda: before.leads, within=1)
            again = make_election(server, "pod-1")
            async with candidate(again):
                assert await until(lambda: again.leads, within=30) < 0.1

    run_in_virtual_time(story())


def test_ending_gives_the_lease_back_after_the_work_has_ended() -> None:
    async def story() -> None:
        server = FakeApiServer()
        first, second = make_election(server, "a"), make_election(server, "b")
        ended_at: list[float] = []

        async def work() -> None:
            try:
                await for_ever()
            finally:
                first.check()  # still fenced in: the last words may be written
                await asyncio.sleep(1)
                ended_at.append(virtual_now())

        async with candidate(first, work):
            await until(lambda: first.leads, within=1)
            async with candidate(second):
                await asyncio.sleep(20)
                assert not second.leads
        assert lease_of(server)["holderIdentity"] == ""
        async with candidate(second):
            assert await until(lambda: second.leads, within=30) <= LOOK_SECONDS + 0.1
        assert ended_at

    run_in_virtual_time(story())


def test_when_renewals_fail_the_fence_shuts_and_the_work_is_cancelled_while_nobody_else_can_lead() -> None:
    async def story() -> None:
        server = FakeApiServer()
        election = make_election(server, "a")
        cancelled: list[float] = []

        async def work() -> None:
            try:
                await for_ever()
            finally:
                cancelled.append(virtual_now())

        async with candidate(election, work):
            await until(lambda: election.leads, within=1)
            await asyncio.sleep(0.1)
            last = virtual_now()
            server.before = away
            await until(lambda: not election.leads, within=15)
            await asyncio.sleep(0)
            assert cancelled
            assert cancelled[0] - last <= SAFE_SECONDS + 0.1
            server.before = FakeApiServer().before
            assert await until(lambda: election.leads, within=5) <= LOOK_SECONDS + 0.1

    run_in_virtual_time(story())


def test_a_renewal_whose_answer_was_lost_costs_nothing() -> None:
    async def story() -> None:
        server = FakeApiServer()
        election = make_election(server, "a")
        losses = iter([True])

        async def lose_one(method: str, _path: str) -> None:
            if method == "PUT" and next(losses, False):
                raise KubeAway("the answer was lost")

        async with candidate(election) as task:
            await until(lambda: election.leads, within=1)
            server.after = lose_one
            for _ in range(600):
                await asyncio.sleep(0.1)
                election.check()
            assert not task.done()

    run_in_virtual_time(story())


def test_what_the_work_raises_ends_the_election_and_gives_the_lease_back() -> None:
    async def story() -> None:
        server = FakeApiServer()
        election = make_election(server, "a")

        async def work() -> None:
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            await election.run(work)
        assert lease_of(server)["holderIdentity"] == ""

    run_in_virtual_time(story())


def test_work_stopped_by_its_own_fence_is_begun_again() -> None:
    async def story() -> None:
        server = FakeApiServer()
        election = make_election(server, "a")
        starts: list[float] = []

        async def work() -> None:
            starts.append(virtual_now())
            if len(starts) == 1:
                raise NotLeaderError("too late")
            await for_ever()

        async with candidate(election, work):
            await until(lambda: len(starts) == 2, within=5)

    run_in_virtual_time(story())


class Line(FakeApiServer):
    """One candidate's own way to the server; while it is cut its renewals do not come through, yet its writes do."""

    def __init__(self, server: FakeApiServer) -> None:
        super().__init__()
        vars(self).update(vars(server))
        self.network = server.before
        self.before = self.after = self.pass_through
        self._store = server._store  # type: ignore[method-assign]
        self.cut_until = 0.0

    async def pass_through(self, method: str, path: str) -> None:
        await self.network(method, path)
        if virtual_now() < self.cut_until and "/leases/" in path:
            raise KubeAway("cut")


class World:
    """Two candidates that write while they lead, over a network that delays and loses."""

    def __init__(self, seed: int, slowest: float, loss: float) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.slowest, self.loss = slowest, loss
        self.server = FakeApiServer()
        self.server.before = self.pass_through
        self.server.on_effect = self.judge
        self.lines = {name: Line(self.server) for name in "ab"}
        self.elections = {name: make_election(line, name) for name, line in self.lines.items()}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.effects = self.intrusions = 0

    async def pass_through(self, method: str, _path: str) -> None:
        # A write may take effect only just before the client gives up.
        await asyncio.sleep(self.random.uniform(0, WRITE_SECONDS - 0.1 if method == "POST" else self.slowest))
        if self.random.random() < self.loss:
            raise KubeAway("lost")

    def judge(self, item: dict[str, Any]) -> None:
        if "by" in item:
            self.effects += 1
            if self.elections["b" if item["by"] == "a" else "a"].leads:
                self.intrusions += 1

    async def lead(self, name: str) -> None:
        """Many writes at once, so that at any moment some are just begun and some about to take effect."""
        client = self.lines[name].client().fenced(self.elections[name])

        async def write() -> None:
            while True:
                with contextlib.suppress(KubeAway):
                    await client.create(CONFIG_MAP, {"metadata": {"generateName": "by-"}, "by": name})
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as writers:  # unlike gather, it waits for all of them when cancelled
            for _ in range(8):
                writers.create_task(write())

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            name = self.random.choice("ab")
            task = self.tasks.get(name)
            if task is None or task.done():
                work = functools.partial(self.lead, name)
                self.tasks[name] = asyncio.create_task(self.elections[name].run(work))
            elif self.random.random() < 0.001:
                task.cancel()
            elif self.random.random() < 0.01:
                self.lines[name].cut_until = virtual_now() + self.random.uniform(1, 30)
            await asyncio.sleep(0.1)
            assert sum(election.leads for election in self.elections.values()) <= 1
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


@examples(25)
@given(
    seed=st.integers(min_value=0, max_value=10**6),
    slowest=st.floats(min_value=0.01, max_value=2.0),
    loss=st.floats(min_value=0.0, max_value=0.5),
)
def test_two_candidates_never_both_pass_the_fence_nor_does_a_write_of_one_take_effect_while_the_other_does(
    seed: int, slowest: float, loss: float
) -> None:
    world = World(seed, slowest, loss)
    run_in_virtual_time(world.run(3000))
    assert world.intrusions == 0
    if loss < 0.1 and slowest < 0.5:
        assert world.effects > 20


def test_the_lease_is_of_the_kind_that_others_read() -> None:
    assert LEASE.path("plinth-system", "plinth-operator") == (
        "/apis/coordination.k8s.io/v1/namespaces/plinth-system/leases/plinth-operator"
    )
