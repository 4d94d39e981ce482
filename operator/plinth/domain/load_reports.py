"""Several gateways' load reports as one: what the cycle reads as *the* load report in a cluster. Pure.

Each gateway knows its own share of the requests, has a table that may be older than the next one's, and starts its
totals anew when it is restarted. The sum hides that: totals only grow, and a replica counts as draining once no gateway
can send to it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter

from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState

TOTALS = tuple(item.name for item in fields(ModelLoad) if item.name.endswith("_total"))
_read_totals = attrgetter(*TOTALS)


def asks_for_a_pass(before: LoadReport, now: LoadReport) -> bool:
    """Whether the cycle should look at once and not at its next turn: load moved, or a replica changed state."""
    if before.replicas.keys() != now.replicas.keys() or before.models.keys() != now.models.keys():
        return True
    if any(
        then.state != now.replicas[slot].state or (then.in_flight == 0) != (now.replicas[slot].in_flight == 0)
        for slot, then in before.replicas.items()
    ):
        return True
    return any(
        load.peak > before.models[model].peak or (load.queued > 0) != (before.models[model].queued > 0)
        for model, load in now.models.items()
    )


class ReportSum:
    """Adds reports up; keeps what each gateway's totals were when they were last added."""

    def __init__(self, identity: str) -> None:
        """`identity` stands for the sum as a gateway process's does for its report: totals grow under one name."""
        self._identity = identity
        self._counted: dict[str, Mapping[str, ModelLoad]] = {}
        """By gateway process."""
        self._totals: dict[str, tuple[int, ...]] = {}
        """By model, as in TOTALS; of every model ever reported."""
        self._sums: dict[str, tuple[list[ModelLoad], ModelLoad]] = {}
        """By model: the loads last added and their sum. Most models of a large fleet rest most of the time."""

    def add(self, reports: Collection[LoadReport], draining: Mapping[str, int]) -> LoadReport:
        """The sum of every gateway's newest report.

        `draining` gives, for each slot that is to drain, the first table that said so. What a gateway had counted when
        it is first seen stays uncounted: the sum tells what happened while somebody looked.
        """
        for report in reports:
            self._count(report)
        self._counted = {report.gateway: report.models for report in reports}
        models = {model for report in reports for model in report.models}
        return LoadReport(
            gateway=self._identity,
            table_version=min(report.table_version for report in reports),
            models={model: self._sum(model, reports) for model in models},
            replicas=dict(_replicas(reports, draining)),
        )

    def _count(self, report: LoadReport) -> None:
        counted = self._counted.get(report.gateway, {})
        if counted is report.models:
            return  # nothing new of this one
        for model, load in report.models.items():
            before, totals = counted.get(model), self._totals.setdefault(model, (0,) * len(TOTALS))
            if before is not None and before != load:
                grown = zip(totals, _read_totals(load), _read_totals(before), strict=True)
                self._totals[model] = tuple(total + max(0, now - then) for total, now, then in grown)
                self._sums.pop(model, None)

    def _sum(self, model: str, reports: Iterable[LoadReport]) -> ModelLoad:
        loads = [report.models[model] for report in reports if model in report.models]
        known = self._sums.get(model)
        if known is not None and known[0] == loads:
            return known[1]
        found = ModelLoad(
            in_flight=sum(load.in_flight for load in loads),
            queued=sum(load.queued for load in loads),
            # At most this: the gateways' peaks need not have been at one time.
            peak=sum(load.peak for load in loads),
            **dict(zip(TOTALS, self._totals[model], strict=True)),
        )
        self._sums[model] = loads, found
        return found


def _replicas(
    reports: Collection[LoadReport], draining: Mapping[str, int]
) -> Iterable[tuple[str, ReplicaLoad]]:
    listed = {slot for report in reports for slot in report.replicas}
    for slot in listed | draining.keys():
        loads = [report.replicas.get(slot) for report in reports]
        state = _state(loads, reports, draining.get(slot))
        known = [load for load in loads if load is not None]
        if known or state is ReplicaState.DRAINING:
            in_flight = sum(load.in_flight for load in known)
            detail = known[0].detail if state is ReplicaState.DEAD else ""
            yield slot, ReplicaLoad(in_flight=in_flight, state=state, detail=detail)


def _state(
    loads: Collection[ReplicaLoad | None], reports: Iterable[LoadReport], draining_since: int | None
) -> ReplicaState:
    """One replica's state by the word of every gateway; None from one that does not list it.

    A gateway that does not list it may have a table older than the replica; one that calls it dead may find it alive.
    Both are past that, and never send to it again, once they have a table by which it drains.
    """
    states = [load.state if load is not None else None for load in loads]
    if ReplicaState.READY in states:
        return ReplicaState.READY
    if ReplicaState.DEAD in states and ReplicaState.DRAINING not in states:
        return ReplicaState.DEAD
    return (
        ReplicaState.DRAINING
        if all(
            state is ReplicaState.DRAINING
            or (draining_since is not None and report.table_version >= draining_since)
            for state, report in zip(states, reports, strict=True)
        )
        else ReplicaState.READY
    )
