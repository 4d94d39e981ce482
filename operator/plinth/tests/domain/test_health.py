import pytest

from plinth.domain.fleet import FailureRecord, SlotPhase
from plinth.domain.health import breakage, retry_due_at
from plinth.domain.traffic import ReplicaLoad, ReplicaState
from plinth.tests.domain.builders import dead, make_node, make_report, make_slot

NODES = frozenset([make_node().node_id])


def test_a_failed_replica_is_broken_and_the_first_line_of_its_message_says_why() -> None:
    slot = make_slot(phase=SlotPhase.FAILED, message="\nout of memory\n at layer 3")
    assert breakage(slot, report=None, node_ids=NODES) == "its engine failed: out of memory"


def test_a_ready_replica_that_the_gateway_lost_is_broken() -> None:
    slot = make_slot()
    report = make_report(replicas={str(slot.name): dead()})
    assert breakage(slot, report=report, node_ids=NODES) == "the gateway lost it: connection refused"


def test_a_replica_that_became_unready_is_not_broken_by_an_old_report() -> None:
    slot = make_slot(phase=SlotPhase.LOADING)
    assert breakage(slot, report=make_report(replicas={str(slot.name): dead()}), node_ids=NODES) is None


def test_a_busy_replica_is_never_broken() -> None:
    slot = make_slot(message="slow to answer")
    busy = ReplicaLoad(in_flight=500, state=ReplicaState.READY)
    for report in (None, make_report(load=500, replicas={str(slot.name): busy})):
        assert breakage(slot, report=report, node_ids=NODES) is None


def test_a_replica_that_waits_for_a_node_that_is_gone_is_broken() -> None:
    slot = make_slot(phase=SlotPhase.PENDING, node_id="node-9")
    assert breakage(slot, report=None, node_ids=NODES) == "its node node-9 is gone"


def test_a_ready_replica_is_believed_over_a_list_of_nodes() -> None:
    assert breakage(make_slot(node_id="node-9"), report=None, node_ids=NODES) is None


@pytest.mark.parametrize(("count", "wait"), [(2, 10), (3, 20), (4, 40), (6, 160), (7, 300), (1000, 300)])
def test_failed_starts_are_retried_after_ten_seconds_doubling_to_five_minutes(
    count: int, wait: float
) -> None:
    failure = FailureRecord(revision="aaaaaaaa", count=count, last_at=100.0, message="")
    assert retry_due_at(failure, "aaaaaaaa") == 100.0 + wait


def test_the_first_failure_and_that_of_another_revision_make_nobody_wait() -> None:
    assert retry_due_at(None, "aaaaaaaa") is None
    assert (
        retry_due_at(FailureRecord(revision="aaaaaaaa", count=1, last_at=0, message=""), "aaaaaaaa") is None
    )
    assert (
        retry_due_at(FailureRecord(revision="bbbbbbbb", count=5, last_at=0, message=""), "aaaaaaaa") is None
    )
