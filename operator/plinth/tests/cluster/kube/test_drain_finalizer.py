"""The finalizer that holds a pool until its RayClusters are gone, and never for ever."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from plinth.cluster.kube.drain_finalizer import DEADLINE_SECONDS, FINALIZER, DrainFinalizer
from plinth.cluster.kube.store import KubernetesStore
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.stored_objects import POOLS, make_pool
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time

DELETED = "2026-02-01T00:00:00Z"
DELETED_AT = datetime(2026, 2, 1, tzinfo=UTC).timestamp()


class Pool:
    def __init__(self, **metadata: Any) -> None:
        self.server, self.store = FakeApiServer(), KubernetesStore()
        pool = make_pool()
        self.store.put(self.server.put(POOLS, {**pool, "metadata": {**pool["metadata"], **metadata}}))
        self.finalizer = DrainFinalizer(self.server.client(), self.store)

    def settle(self, *, occupied: bool, now: float = DELETED_AT + 10) -> None:
        pools = [each.resource for each in self.store.read().pools]
        run_in_virtual_time(self.finalizer.settle(pools, occupied={"h200"} if occupied else set(), now=now))

    @property
    def finalizers(self) -> list[str] | None:
        item = self.server.objects.get((POOLS, "", "h200"))
        return None if item is None else item["metadata"].get("finalizers", [])


def test_a_pool_gets_the_finalizer_once_beside_those_of_others() -> None:
    pool = Pool(finalizers=["somebody/else"])
    pool.settle(occupied=False)
    pool.settle(occupied=False)
    assert pool.finalizers == ["somebody/else", FINALIZER]
    assert len(pool.server.writes) == 1


def test_a_deleted_pool_stays_while_it_has_ray_clusters_and_goes_when_they_have_gone() -> None:
    pool = Pool(finalizers=[FINALIZER], deletionTimestamp=DELETED)
    pool.settle(occupied=True)
    assert pool.finalizers == [FINALIZER]
    pool.settle(occupied=False)
    assert pool.finalizers is None


def test_a_deleted_pool_goes_at_the_deadline_whatever_it_still_has() -> None:
    pool = Pool(finalizers=[FINALIZER], deletionTimestamp=DELETED)
    pool.settle(occupied=True, now=DELETED_AT + DEADLINE_SECONDS)
    assert pool.finalizers is None


def test_no_finalizer_is_added_to_what_is_being_deleted() -> None:
    pool = Pool(finalizers=["somebody/else"], deletionTimestamp=DELETED)
    pool.settle(occupied=True)
    assert pool.server.writes == []


def test_a_pool_that_somebody_changed_meanwhile_is_left_for_the_next_pass() -> None:
    pool = Pool()
    item = pool.server.objects[POOLS, "", "h200"]
    changed = pool.server.put(POOLS, {**item, "metadata": {**item["metadata"], "finalizers": ["late/comer"]}})
    pool.settle(occupied=False)
    assert pool.finalizers == ["late/comer"]
    pool.store.put(changed)
    pool.settle(occupied=False)
    assert pool.finalizers == ["late/comer", FINALIZER]
