from __future__ import annotations

from plinth.domain.fleet import SlotPhase
from plinth.engine.progress import ReplicaProgress
from plinth.tests.domain.builders import make_figures


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_from_the_rate_since_the_phase_began() -> None:
    clock = Clock()
    progress = ReplicaProgress(clock)
    progress.enter(SlotPhase.DOWNLOADING)
    progress.moved(100, 1000)
    assert progress.report.eta_seconds is None
    clock.now += 10
    progress.moved(300, 1000)
    assert progress.report.eta_seconds == 35  # 200 bytes in 10 s, 700 left
    assert (progress.report.bytes_done, progress.report.bytes_total) == (300, 1000)


def test_a_start_is_timed_from_when_the_files_were_there() -> None:
    clock = Clock()
    progress = ReplicaProgress(clock)
    progress.enter(SlotPhase.DOWNLOADING)
    clock.now += 600
    progress.enter(SlotPhase.LOADING)
    clock.now += 40
    progress.enter(SlotPhase.PROBING)
    clock.now += 2.5
    progress.ready(make_figures())
    assert (progress.report.phase, progress.report.start_milliseconds) == (SlotPhase.READY, 42_500)
    assert progress.report.figures == make_figures()


def test_no_time_is_promised_without_movement_or_a_total() -> None:
    clock = Clock()
    progress = ReplicaProgress(clock)
    progress.moved(100, 1000)
    clock.now += 60
    progress.moved(100, 1000)
    assert progress.report.eta_seconds is None
    progress.moved(500, 0)
    assert progress.report.eta_seconds is None


def test_a_new_phase_counts_anew_and_a_message_keeps_the_count() -> None:
    progress = ReplicaProgress(Clock())
    progress.moved(100, 1000)
    progress.saying("still downloading")
    assert (progress.report.bytes_done, progress.report.message) == (100, "still downloading")
    progress.enter(SlotPhase.LOADING)
    assert (progress.report.bytes_done, progress.report.phase) == (0, SlotPhase.LOADING)
