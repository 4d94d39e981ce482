"""What the cycle remembers from pass to pass: a cache, rebuilt from the world after a restart.

Nothing here decides. A restart forgets it, which reads as "unknown": load windows start empty (so nothing scales
down at once), failures start uncounted (so a start is tried again).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from plinth.controllers.speeds import SpeedWatch
from plinth.domain.figures import Correction
from plinth.domain.fleet import FailureRecord, LoadWindow, ModelKey, ModelPlan, Slot, SlotName, SlotPhase
from plinth.domain.traffic import LoadReport, ModelLoad

OBJECTIVE_WINDOW_SECONDS = 300.0


@dataclass
class ModelMemory:
    """One model's recent load and failures."""

    samples: deque[tuple[float, int]] = field(default_factory=deque)
    watched_since: float | None = None
    counts: deque[tuple[float, ModelLoad]] = field(default_factory=deque)
    failures: dict[str, FailureRecord] = field(default_factory=dict)
    """By revision: the death of an old replica says nothing about the new revision."""
    speeds: SpeedWatch = field(default_factory=SpeedWatch)
    correction: Correction = field(default_factory=Correction)


@dataclass
class Memory:
    """All that is remembered."""

    models: dict[ModelKey, ModelMemory] = field(default_factory=dict)
    first_seen: dict[SlotName, float] = field(default_factory=dict)
    ready_since: dict[SlotName, float] = field(default_factory=dict)
    draining_since: dict[SlotName, float] = field(default_factory=dict)
    failed: set[SlotName] = field(default_factory=set)
    idle_since: dict[str, float] = field(default_factory=dict)
    """By node id."""
    gateway: str = ""
    report_at: float | None = None
    speeds_at: float | None = None
    """The report that speeds were last told from."""

    def of(self, key: ModelKey) -> ModelMemory:
        """The model's memory, empty at first sight."""
        return self.models.setdefault(key, ModelMemory())

    def take_report(
        self, report: LoadReport | None, received_at: float, quiet_seconds: dict[ModelKey, int]
    ) -> None:
        """Note a report once. Without one, or with a new gateway's, what was seen before is no longer a window."""
        if report is None or report.gateway != self.gateway:
            for memory in self.models.values():
                memory.samples.clear()
                memory.counts.clear()
                memory.watched_since = None
                memory.speeds.break_off()
        self.gateway = report.gateway if report else ""
        if report is None or received_at == self.report_at:
            return
        self.report_at = received_at
        for key, seconds in quiet_seconds.items():
            load = report.models.get(str(key))
            if load is not None:
                self._take_load(self.of(key), load, received_at, seconds)

    @staticmethod
    def _take_load(memory: ModelMemory, load: ModelLoad, at: float, quiet_seconds: int) -> None:
        if memory.watched_since is None:
            memory.watched_since = at
        memory.samples.append((at, max(load.peak, load.in_flight + load.queued)))
        # One sample older than the quiet time stays, so that the window is never shorter than asked.
        while len(memory.samples) > 1 and memory.samples[1][0] < at - quiet_seconds:
            memory.samples.popleft()
        memory.counts.append((at, load))
        while len(memory.counts) > 1 and memory.counts[1][0] < at - OBJECTIVE_WINDOW_SECONDS:
            memory.counts.popleft()

    def take_speeds(self, report: LoadReport | None, slots: tuple[Slot, ...]) -> None:
        """Note once what the newest report says of how fast the models under load are."""
        if report is None or self.report_at is None or self.report_at == self.speeds_at:
            return
        self.speeds_at = self.report_at
        loads = {key: report.models.get(str(key)) for key in self.models}
        ready: dict[ModelKey, set[SlotName]] = {
            key: set() for key, load in loads.items() if load and load.in_flight
        }
        for slot in slots:
            if slot.name.model in ready and slot.phase is SlotPhase.READY:
                ready[slot.name.model].add(slot.name)
        for key, load in loads.items():
            speeds = self.models[key].speeds
            if load is None or key not in ready:
                speeds.break_off()
            else:
                speeds.take(load, frozenset(ready[key]), self.report_at)

    def take_corrections(self, plans: Iterable[ModelPlan]) -> None:
        """Note by what factors this pass planned: the next one goes on from them."""
        for plan in plans:
            if plan.prediction is not None:
                self.of(plan.key).correction = plan.prediction.correction

    def window(self, key: ModelKey) -> LoadWindow:
        """The model's load as the planner reads it."""
        memory = self.of(key)
        first, last = (memory.counts[0][1], memory.counts[-1][1]) if memory.counts else (None, None)
        if first is None or last is None:
            return LoadWindow(watched_since=memory.watched_since)
        return LoadWindow(
            samples=tuple(memory.samples),
            watched_since=memory.watched_since,
            ttft_met=last.ttft_met_total - first.ttft_met_total,
            ttft_missed=last.ttft_missed_total - first.ttft_missed_total,
            tpot_met=last.tpot_met_total - first.tpot_met_total,
            tpot_missed=last.tpot_missed_total - first.tpot_missed_total,
        )

    def take_idle(self, node_ids: Iterable[str], now: float) -> Mapping[str, float]:
        """Since when each of these nodes has held nothing; the others are forgotten."""
        self.idle_since = {node_id: self.idle_since.get(node_id, now) for node_id in node_ids}
        return self.idle_since

    def take_slots(self, slots: tuple[Slot, ...], now: float) -> None:
        """Count each failed slot once, start anew when one of the same revision is ready, forget what is gone."""
        for slot in slots:
            self.first_seen.setdefault(slot.name, now)
            memory = self.of(slot.name.model)
            if slot.phase is SlotPhase.FAILED and slot.name not in self.failed:
                self.failed.add(slot.name)
                revision = slot.name.revision
                memory.failures[revision] = _one_more(memory.failures.get(revision), slot, now)
            if slot.phase is SlotPhase.READY:
                self.ready_since.setdefault(slot.name, now)
                memory.failures.pop(slot.name.revision, None)
        names = {slot.name for slot in slots}
        self.failed &= names
        for times in (self.first_seen, self.ready_since, self.draining_since):
            for gone in times.keys() - names:
                del times[gone]


def _one_more(before: FailureRecord | None, slot: Slot, now: float) -> FailureRecord:
    count = before.count + 1 if before else 1
    return FailureRecord(revision=slot.name.revision, count=count, last_at=now, message=slot.message)
