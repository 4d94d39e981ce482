"""A replica's account of itself: phase, bytes, time left. Written by threads, read by `GET …/plinth/state`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import EngineReport, SeenDevice, SlotPhase

_MEASURABLE_SECONDS = 1.0
"""A rate over less than this says little about the time that is left."""


class ReplicaProgress:
    """Holds the newest report. Each change replaces the whole value, so a reader never sees half of one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._loading_since: float | None = None
        self.report = EngineReport(phase=SlotPhase.DOWNLOADING, message="finding the model")

    def enter(self, phase: SlotPhase, message: str = "") -> None:
        """Begin a phase; byte counts start anew."""
        self._began = None
        if phase is SlotPhase.LOADING:
            self._loading_since = self._clock()
        self.report = EngineReport(phase=phase, message=message)

    def ready(self, figures: EngineFigures | None, accelerators: tuple[SeenDevice, ...] = ()) -> None:
        """It answers; how long that took counts from when the model's files were there."""
        since = self._loading_since
        took = None if since is None else round((self._clock() - since) * 1000)
        self.report = EngineReport(
            phase=SlotPhase.READY, figures=figures, start_milliseconds=took, accelerators=accelerators
        )

    def ask_for_credentials(self, message: str) -> None:
        """Nothing can begin until the token has been handed over."""
        self._began = None
        self.report = EngineReport(phase=SlotPhase.PENDING, message=message, needs_credentials=True)

    def fail(self, message: str, log_lines: tuple[str, ...]) -> None:
        """End in failure, for good."""
        self.report = EngineReport(phase=SlotPhase.FAILED, message=message, log_lines=log_lines)

    def moved(self, done: int, total: int) -> None:
        """So many bytes of this phase are done. The time left follows from the rate since the first count."""
        now = self._clock()
        if self._began is None:
            self._began = (now, done)
        began, done_before = self._began
        elapsed, gained = now - began, done - done_before
        eta = None
        if total > 0 and gained > 0 and elapsed >= _MEASURABLE_SECONDS:
            eta = round(max(0, total - done) * elapsed / gained)
        self.report = replace(self.report, bytes_done=done, bytes_total=total, eta_seconds=eta)

    def saying(self, message: str) -> None:
        """What is being done now."""
        self.report = replace(self.report, message=message)
