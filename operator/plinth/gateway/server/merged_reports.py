"""The workers' load reports as the one report of their gateway. Pure.

Totals only grow as long as the parent lives: what a worker has counted is added once, whether it was reported or found
in the shared memory after its death, and its successor starts from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Final

from plinth.domain.load_reports import TOTALS
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState

_MOST_MODELS_REMEMBERED: Final = 4096
_NOTHING: Final = (0,) * len(TOTALS)
_read_totals = attrgetter(*TOTALS)
Counts = tuple[int, ...]
"""In the order of TOTALS."""


def is_urgent(before: LoadReport | None, now: LoadReport) -> bool:
    """Whether the controller should know at once: a table applied, a replica's fate, the first to wait."""
    if before is None or before.table_version != now.table_version:
        return True
    for slot, load in now.replicas.items():
        then = before.replicas.get(slot)
        if then is not None and (
            then.state is not load.state
            or (load.state is ReplicaState.DRAINING and then.in_flight > load.in_flight == 0)
        ):
            return True
    return any(
        load.queued and (name not in before.models or not before.models[name].queued)
        for name, load in now.models.items()
    )


class ReportMerge:
    """Merges; workers go by a key that no two processes have in common."""

    def __init__(self, identity: str) -> None:
        """`identity` is the parent's: a new parent starts its totals anew."""
        self.identity = identity
        self._newest: dict[int, LoadReport] = {}
        self._seen: dict[int, dict[str, Counts]] = {}
        """What of each worker is in the totals."""
        self._totals: dict[str, Counts] = {}
        self._peaks: dict[int, dict[str, int]] = {}
        """Since the last merged report."""
        self._version = 0

    def take(self, worker: int, report: LoadReport) -> None:
        """A worker's newest report."""
        self._newest[worker] = report
        peaks = self._peaks.setdefault(worker, {})
        for name, load in report.models.items():
            self._count(worker, name, _read_totals(load))
            peaks[name] = max(peaks.get(name, 0), load.peak)

    def bury(self, worker: int, counts: Mapping[str, Counts]) -> None:
        """A worker is dead; `counts` is what it had counted of each model at the very end."""
        for name, last in counts.items():
            # Tokens of running streams are reported as estimates, which the last counts may be short of.
            seen = self._seen.get(worker, {}).get(name, _NOTHING)
            self._count(worker, name, tuple(map(max, last, seen)))
        for mine in (self._newest, self._seen, self._peaks):
            mine.pop(worker, None)

    def is_busy(self) -> bool:
        """Whether requests are at replicas."""
        return any(load.in_flight for report in self._newest.values() for load in report.models.values())

    def oldest_version(self) -> int:
        """The oldest table that a worker may still go by; while there is none, that of the last one."""
        self._version = min((report.table_version for report in self._newest.values()), default=self._version)
        return self._version

    def report(self) -> LoadReport:
        """All workers' newest reports in one; the next one counts its peak anew."""
        names = sorted({name for report in self._newest.values() for name in report.models})
        self._forget_models(names)
        models = {name: self._model(name) for name in names}
        self._peaks = {
            worker: {name: load.in_flight + load.queued for name, load in report.models.items()}
            for worker, report in self._newest.items()
        }
        return LoadReport(
            gateway=self.identity,
            table_version=self.oldest_version(),
            models=models,
            replicas=dict(_replicas(self._newest.values())),
        )

    def _model(self, name: str) -> ModelLoad:
        loads = [report.models[name] for report in self._newest.values() if name in report.models]
        return ModelLoad(
            in_flight=sum(load.in_flight for load in loads),
            queued=sum(load.queued for load in loads),
            # At most this: the workers' peaks need not have been at one time.
            peak=sum(peaks.get(name, 0) for peaks in self._peaks.values()),
            **dict(zip(TOTALS, self._totals[name], strict=True)),
        )

    def _count(self, worker: int, name: str, now: Counts) -> None:
        seen = self._seen.setdefault(worker, {})
        then = seen.get(name, _NOTHING)
        if now == then and name in self._totals:
            return
        seen[name] = now
        # A worker that has long not seen a model forgets it, and counts it from nothing when it comes back.
        grown = (new - old if new >= old else new for new, old in zip(now, then, strict=True))
        self._totals[name] = tuple(map(int.__add__, self._totals.get(name, _NOTHING), grown))

    def _forget_models(self, present: list[str]) -> None:
        if len(self._totals) > _MOST_MODELS_REMEMBERED:
            for name in self._totals.keys() - set(present):
                del self._totals[name]
                for seen in self._seen.values():
                    seen.pop(name, None)


def _replicas(reports: Iterable[LoadReport]) -> Iterable[tuple[str, ReplicaLoad]]:
    """Alive if one worker finds it so; to drain only when none sends to it any more."""
    loads: dict[str, list[ReplicaLoad]] = {}
    for report in reports:
        for slot, load in report.replicas.items():
            loads.setdefault(slot, []).append(load)
    for slot, found in loads.items():
        states = {load.state for load in found}
        state = next(
            item for item in (ReplicaState.READY, ReplicaState.DEAD, ReplicaState.DRAINING) if item in states
        )
        detail = next((load.detail for load in found if load.state is state), "")
        yield slot, ReplicaLoad(in_flight=sum(load.in_flight for load in found), state=state, detail=detail)
