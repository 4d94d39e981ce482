"""What the cycle remembers: load windows and failures, and how it forgets them."""

from __future__ import annotations

from plinth.controllers.memory import OBJECTIVE_WINDOW_SECONDS, Memory
from plinth.domain.fleet import ModelKey, Needs, Slot, SlotName, SlotPhase, SlotPlace
from plinth.domain.traffic import LoadReport, ModelLoad

KEY = ModelKey("default", "chat")
QUIET = {KEY: 60}


def make_report(peak: int, *, gateway: str = "one", ttft_met: int = 0) -> LoadReport:
    load = ModelLoad(in_flight=0, queued=0, peak=peak, ttft_met_total=ttft_met)
    return LoadReport(gateway=gateway, table_version=1, models={str(KEY): load})


def make_slot(ordinal: int, phase: SlotPhase, *, revision: str = "aaaa", message: str = "") -> Slot:
    return Slot(
        name=SlotName(KEY, revision, ordinal),
        spec=None,
        needs=Needs(accelerators=0, memory_bytes=1),
        place=(SlotPlace("n"),),
        running_on=None,
        phase=phase,
        message=message,
    )


def test_a_report_is_counted_once_however_often_it_is_seen() -> None:
    memory = Memory()
    for _ in range(3):
        memory.take_report(make_report(5), 100.0, QUIET)
    assert memory.window(KEY).samples == ((100.0, 5),)


def test_the_window_reaches_back_at_least_the_quiet_time_and_not_for_ever() -> None:
    memory = Memory()
    for second in range(0, 200, 10):
        memory.take_report(make_report(second), float(second), QUIET)
    times = [at for at, _ in memory.window(KEY).samples]
    assert times[0] == 120.0
    assert times[-1] == 190.0


def test_a_missing_report_ends_the_window_because_unknown_is_not_zero() -> None:
    memory = Memory()
    memory.take_report(make_report(5), 100.0, QUIET)
    memory.take_report(None, 0.0, QUIET)
    assert memory.window(KEY).samples == ()
    assert memory.window(KEY).watched_since is None
    memory.take_report(make_report(1), 130.0, QUIET)
    assert memory.window(KEY).watched_since == 130.0


def test_another_gateway_process_starts_a_new_window_because_its_totals_do() -> None:
    memory = Memory()
    memory.take_report(make_report(5, ttft_met=40), 100.0, QUIET)
    memory.take_report(make_report(2, gateway="two", ttft_met=1), 101.0, QUIET)
    window = memory.window(KEY)
    assert window.samples == ((101.0, 2),)
    assert window.ttft_met == 0


def test_objectives_are_counted_over_the_last_minutes_only() -> None:
    memory = Memory()
    memory.take_report(make_report(1, ttft_met=10), 0.0, QUIET)
    memory.take_report(make_report(1, ttft_met=30), OBJECTIVE_WINDOW_SECONDS, QUIET)
    assert memory.window(KEY).ttft_met == 20
    memory.take_report(make_report(1, ttft_met=31), 2 * OBJECTIVE_WINDOW_SECONDS + 1, QUIET)
    assert memory.window(KEY).ttft_met == 1


def test_a_failed_slot_counts_once_and_the_next_one_again() -> None:
    memory = Memory()
    first, second = make_slot(0, SlotPhase.FAILED, message="no memory"), make_slot(1, SlotPhase.FAILED)
    for now in (1.0, 2.0):
        memory.take_slots((first,), now)
    failure = memory.of(KEY).failures.get("aaaa")
    assert failure is not None
    assert (failure.count, failure.last_at, failure.message) == (1, 1.0, "no memory")
    memory.take_slots((second,), 9.0)
    failure = memory.of(KEY).failures.get("aaaa")
    assert failure is not None
    assert (failure.count, failure.last_at) == (2, 9.0)


def test_failures_of_another_revision_start_at_one() -> None:
    memory = Memory()
    memory.take_slots((make_slot(0, SlotPhase.FAILED),), 1.0)
    memory.take_slots((make_slot(0, SlotPhase.FAILED, revision="bbbb"),), 2.0)
    failures = memory.of(KEY).failures
    assert {revision: failure.count for revision, failure in failures.items()} == {"aaaa": 1, "bbbb": 1}


def test_a_ready_replica_of_the_revision_clears_its_failures_but_an_old_ones_does_not() -> None:
    memory = Memory()
    memory.take_slots((make_slot(0, SlotPhase.FAILED),), 1.0)
    memory.take_slots((make_slot(0, SlotPhase.READY, revision="old"),), 2.0)
    assert memory.of(KEY).failures
    memory.take_slots((make_slot(1, SlotPhase.READY),), 3.0)
    assert memory.of(KEY).failures == {}


def test_slots_that_are_gone_are_forgotten() -> None:
    memory = Memory()
    slot = make_slot(0, SlotPhase.FAILED)
    memory.take_slots((slot,), 1.0)
    memory.draining_since[slot.name] = 1.0
    memory.take_slots((), 2.0)
    assert memory.first_seen == {}
    assert memory.draining_since == {}
    assert memory.failed == set()
