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
        for model, load in report.models.items():
            before, totals = counted.get(model), self._totals.setdefault(model, (0,) * len(TOTALS))
            if before is not None and before != load:
                grown = zip(totals, _read_totals(load), _read_totals(before), strict=True)
                self._totals[model] = tuple(total + max(0, now - then) for total, now, then in grown)

    def _sum(self, model: str, reports: Iterable[LoadReport]) -> ModelLoad:
        loads = [report.models[model] for report in reports if model in report.models]
        return ModelLoad(
            in_flight=sum(load.in_flight for load in loads),
            queued=sum(load.queued for load in loads),
            # At most this: the gateways' peaks need not have been at one time.
            peak=sum(load.peak for load in loads),
            **dict(zip(TOTALS, self._totals[model], strict=True)),
        )


def _replicas(
    reports: Collection[LoadReport], draining: Mapping[str, int]
) -> Iterable[tuple[str, ReplicaLoad]]:
    listed = {slot for report in reports for slot in report.replicas}
    for slot in sorted(listed | draining.keys()):
        loads = [report.replicas[slot] for report in reports if slot in report.replicas]
        state = _state(slot, reports, draining)
        if loads or state is ReplicaState.DRAINING:
            yield (
                slot,
                ReplicaLoad(
                    in_flight=sum(load.in_flight for load in loads),
                    state=state,
                    detail=loads[0].detail if state is ReplicaState.DEAD else "",
                ),
            )


def _state(slot: str, reports: Collection[LoadReport], draining: Mapping[str, int]) -> ReplicaState:
    loads = [report.replicas[slot] for report in reports if slot in report.replicas]
    if loads and all(load.state is ReplicaState.DEAD for load in loads):
        return ReplicaState.DEAD
    if all(_never_sends(slot, report, draining) for report in reports):
        return ReplicaState.DRAINING
    return ReplicaState.READY


def _never_sends(slot: str, report: LoadReport, draining: Mapping[str, int]) -> bool:
    """Whether this gateway sends nothing to the replica, now or by a table that is still on its way to it.

    One that does not list it may have a table older than the replica; one that calls it dead may find it alive. Both
    are past that once they have a table by which it drains.
    """
    load = report.replicas.get(slot)
    if load is not None and load.state is not ReplicaState.DEAD:
        return load.state is ReplicaState.DRAINING
    return slot in draining and report.table_version >= draining[slot]
