"""What the decisions mean for a resource's conditions: one verdict for every type on every pass.

Each function is a row of guard clauses, each of which sets one reason; the last line is True. Verdicts are undated:
`desired.statuses` dates them.

An invalid edit makes `Accepted` False while `Ready` follows what runs: the last good spec is still served as asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from plinth.api.v1alpha1 import ConditionType, Reason
from plinth.domain.figures import THOUSAND, Prediction, is_apart, partings
from plinth.domain.fleet import Model, Slot, SlotName, SlotPhase, Verdict
from plinth.domain.health import first_line
from plinth.domain.pools import Pool
from plinth.domain.quantities import format_bytes, format_duration, plural
from plinth.domain.relations import Relations
from plinth.domain.sightings import find_stray
from plinth.domain.targets import Refusal

HUNDRED_PERCENT = 100
FOR_PEOPLE = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_COLLISION,
        Reason.UNKNOWN_SOURCE,
        Reason.NOT_ALLOWED,
        Reason.POOL_NOT_FOUND,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_UNREADABLE,
        Reason.ENGINE_UNSUITABLE,
        Reason.SHAPE_IMPOSSIBLE,
        Reason.ENGINE_FAILED,
        Reason.ROLLOUT_STUCK,
    }
)
"""Reasons that somebody must act on; all others mend themselves, or may."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that was decided about a model, and what there is of it."""

    model: Model
    relations: Relations
    revision: str
    """Of the wanted replicas; empty where nothing is wanted and nothing runs."""
    prediction: Prediction | None
    """What a replica of it should measure; None while there is no shape."""
    refusal: Refusal | None
    desired: int
    scaling_reason: str
    slots: tuple[Slot, ...]
    kept: frozenset[SlotName]
    """Those that stay: neither broken nor on their way out."""
    shortage: str
    awaiting: str
    """Which replicas have a place only once more workers are up; empty where all have."""
    report_known: bool
    capacity_known: bool
    stuck_since: float | None
    """Since when a starting replica is past its deadline."""
    now: float

    @cached_property
    def ready(self) -> tuple[Slot, ...]:
        """Replicas that answer and stay, of any revision."""
        return tuple(slot for slot in self.slots if slot.phase is SlotPhase.READY and slot.name in self.kept)

    @cached_property
    def updated(self) -> tuple[Slot, ...]:
        """Replicas that answer and are of the wanted revision."""
        return tuple(slot for slot in self.ready if slot.name.revision == self.revision)

    @property
    def failure(self) -> str:
        """What the newest failed start of the wanted revision said, log lines included; empty without one."""
        record = self.model.failure
        failed = [slot.message for slot in self.slots if slot.phase is SlotPhase.FAILED]
        if record is not None and record.revision == self.revision:
            times = f" ({plural(record.count, 'failed start')} in a row)" if record.count > 1 else ""
            return f"{record.message}{times}"
        return failed[-1] if failed else ""


def model_verdicts(situation: Situation) -> tuple[Verdict, ...]:
    """Every condition of a model, in the order in which they depend on each other."""
    before = (
        accepted(situation),
        planned(situation),
        placed(situation),
        serving(situation),
        updated(situation),
    )
    aside = (
        objectives_met(situation),
        as_predicted(situation),
        metrics_fresh(situation),
        routed(situation),
        stalled(before),
    )
    return (*before, *aside, ready(situation, before))


def accepted(situation: Situation) -> Verdict:
    """Whether the spec can be acted on."""
    refusal = situation.refusal
    if situation.model.invalid_edit:
        message = f"{situation.model.invalid_edit}; the last good spec goes on"
        return _false(ConditionType.ACCEPTED, Reason.INVALID_SPEC, message)
    if refusal is not None and refusal.condition is ConditionType.ACCEPTED:
        return _false(ConditionType.ACCEPTED, refusal.reason, refusal.message)
    return _true(ConditionType.ACCEPTED, Reason.VALID, "the spec is valid")


def planned(situation: Situation) -> Verdict:
    """Whether a shape was found."""
    refusal = situation.refusal
    if refusal is None:
        return _true(ConditionType.PLANNED, Reason.SHAPE_CHOSEN, f"revision {situation.revision} has a shape")
    if refusal.condition is ConditionType.ACCEPTED:
        return _unknown(ConditionType.PLANNED, Reason.NOT_EVALUATED, "the spec is not accepted")
    if refusal.reason is Reason.NO_NODES and not situation.capacity_known:
        return _unknown(ConditionType.PLANNED, Reason.CAPACITY_AWAY, "Ray does not answer")
    if not refusal.known:
        return _unknown(ConditionType.PLANNED, refusal.reason, refusal.message)
    return _false(ConditionType.PLANNED, refusal.reason, refusal.message)


def placed(situation: Situation) -> Verdict:
    """Whether every wanted replica has a place."""
    if not situation.capacity_known:
        return _unknown(ConditionType.PLACED, Reason.CAPACITY_AWAY, "Ray does not answer")
    if not situation.revision:
        return _unknown(ConditionType.PLACED, Reason.NOT_EVALUATED, "no shape was found yet")
    obstacle = _obstacle(situation)
    if obstacle:
        return _false(ConditionType.PLACED, *obstacle)
    stray = next(filter(None, map(find_stray, situation.ready)), None)
    if stray:
        return _false(ConditionType.PLACED, Reason.OTHER_ACCELERATORS, stray)
    message = (
        f"{plural(situation.desired, 'replica')} wanted, each has a place"
        if situation.desired
        else "none wanted"
    )
    return _true(ConditionType.PLACED, Reason.ALL_PLACED, message)


def _obstacle(situation: Situation) -> tuple[Reason, str] | None:
    """Why not every wanted replica has a place at Ray."""
    if situation.shortage:
        return Reason.INSUFFICIENT_CAPACITY, situation.shortage
    return (Reason.WORKERS_STARTING, situation.awaiting) if situation.awaiting else None


def serving(situation: Situation) -> Verdict:
    """Whether at least one replica answers."""
    if situation.ready:
        return _true(
            ConditionType.SERVING, Reason.SERVING, f"{plural(len(situation.ready), 'replica')} answer"
        )
    if not situation.revision:
        return _unknown(ConditionType.SERVING, Reason.NOT_EVALUATED, "no shape was found yet")
    if situation.desired == 0:
        return _false(ConditionType.SERVING, Reason.SCALED_TO_ZERO, situation.scaling_reason)
    if situation.failure:
        return _false(ConditionType.SERVING, Reason.ENGINE_FAILED, situation.failure)
    reason, message = _obstacle(situation) or _progress(situation)
    return _false(ConditionType.SERVING, reason, message)


def updated(situation: Situation) -> Verdict:
    """Whether the replicas that answer run what the spec asks for."""
    kind, revision = ConditionType.UPDATED, situation.revision
    old = [slot for slot in situation.ready if slot.name.revision != revision]
    if situation.refusal is not None or not revision:
        return _unknown(kind, Reason.NOT_EVALUATED, "no shape was found for the spec")
    if situation.desired == 0 and not old:
        return _true(kind, Reason.UP_TO_DATE, "no replica is wanted")
    stuck = _stuck(situation) if len(situation.updated) < situation.desired else ""
    if stuck:
        goes_on = "; the old one keeps serving" if old else ""
        return _false(kind, Reason.ROLLOUT_STUCK, f"{revision} {stuck}{goes_on}")
    if old:
        message = f"{len(situation.updated)} of {situation.desired} replicas run {revision}, {len(old)} an older one"
        return _false(kind, Reason.ROLLING_OUT, message)
    if not situation.updated:
        return _false(kind, *_progress(situation))
    return _true(kind, Reason.UP_TO_DATE, f"all replicas that answer run {revision}")


def _stuck(situation: Situation) -> str:
    """Why the wanted revision does not become ready; empty while it may just take its time."""
    if situation.failure:
        return f"failed: {situation.failure}"
    if situation.stuck_since is not None:
        deadline = situation.model.resource.spec.rollout.progress_deadline_seconds
        return f"is not ready after progressDeadlineSeconds ({format_duration(deadline)})"
    return ""


def objectives_met(situation: Situation) -> Verdict:
    """Whether the stated percentile of the requests stays within the objectives."""
    kind, asked, window = (
        ConditionType.OBJECTIVES_MET,
        situation.model.resource.spec.objectives,
        situation.model.window,
    )
    shares = [
        (name, limit, met, missed)
        for name, limit, met, missed in (
            ("TTFT", asked.ttft_milliseconds, window.ttft_met, window.ttft_missed),
            ("TPOT", asked.tpot_milliseconds, window.tpot_met, window.tpot_missed),
        )
        if limit is not None
    ]
    if not shares:
        return _true(kind, Reason.NO_OBJECTIVES, "the spec states neither TTFT nor TPOT")
    counted = [share for share in shares if share[2] + share[3] > 0]
    if not counted:
        return _unknown(kind, Reason.NO_TRAFFIC, "no request of the stated workload came lately")
    sentences, within = [], True
    for name, limit, met, missed in counted:
        percent = HUNDRED_PERCENT * met // (met + missed)
        within &= missed * HUNDRED_PERCENT <= (met + missed) * (HUNDRED_PERCENT - asked.percentile)
        sentences.append(f"{percent}% of {met + missed} within {name} {limit} ms, {asked.percentile}% asked")
    if not within:
        return _false(kind, Reason.OBJECTIVES_MISSED, "; ".join(sentences))
    return _true(kind, Reason.WITHIN_OBJECTIVES, "; ".join(sentences))


def as_predicted(situation: Situation) -> Verdict:
    """Whether what the replicas measured is near to what the plan promised."""
    kind, prediction = ConditionType.AS_PREDICTED, situation.prediction
    if prediction is None:
        return _unknown(kind, Reason.NOT_EVALUATED, "no shape was found for the spec")
    told = [(slot, slot.figures) for slot in situation.updated if slot.figures is not None]
    if not told:
        return _unknown(kind, Reason.NOT_MEASURED, "no replica of this revision has told its figures")
    for slot, figures in told:
        apart = list(partings(prediction.memory, figures.memory))
        if apart:
            return _false(kind, Reason.FIGURES_PART, f"{slot.name}: {'; '.join(apart)}")
    factor = prediction.correction.thousandths
    if is_apart(THOUSAND, factor):
        message = f"replicas deliver {factor // 10}% of the throughput that was computed"
        return _false(kind, Reason.FIGURES_PART, message)
    return _true(kind, Reason.FIGURES_AGREE, "weights and KV cache are within 10% of the prediction")


def metrics_fresh(situation: Situation) -> Verdict:
    """Whether the load is known."""
    if not situation.report_known:
        message = "the gateway has not reported lately: replicas are left as they are"
        return _false(ConditionType.METRICS_FRESH, Reason.REPORT_MISSING, message)
    return _true(ConditionType.METRICS_FRESH, Reason.REPORT_FRESH, "the gateway reports its load")


def routed(situation: Situation) -> Verdict:
    """Whether requests reach the model as its spec says. The first fault gives the reason, all are told."""
    kind, faults = ConditionType.ROUTED, situation.relations.faults
    if faults:
        return _false(kind, faults[0].reason, "; ".join(fault.message for fault in faults))
    return _true(kind, Reason.AS_ASKED, "requests reach it as the spec says")


def stalled(before: tuple[Verdict, ...]) -> Verdict:
    """Whether time alone will not help. kstatus, which GitOps tools judge by, calls the resource Failed then."""
    for verdict in before:
        if verdict.status is False and verdict.reason in FOR_PEOPLE:
            return replace(verdict, type=ConditionType.STALLED.value, status=True)
    return _false(ConditionType.STALLED, Reason.NOT_STALLED, "nothing waits for a person")


def ready(situation: Situation, before: tuple[Verdict, ...]) -> Verdict:
    """Whether all is as the (last good) spec asks; at zero replicas True once this revision has answered.

    Between minReplicas and maxReplicas the load decides, so it stays True while replicas beyond the least are added.
    """
    kind = ConditionType.READY
    enough = len(situation.ready) >= max(situation.model.resource.spec.scaling.min_replicas, 1)
    aside = "; a newer edit was refused, see Accepted" if situation.model.invalid_edit else ""
    for verdict in before:
        edit = verdict.reason == Reason.INVALID_SPEC
        asleep = verdict.type == ConditionType.SERVING and verdict.reason == Reason.SCALED_TO_ZERO
        elsewhere = verdict.type == ConditionType.PLACED and enough
        if verdict.status is not True and not edit and not asleep and not elsewhere:
            return replace(verdict, type=kind.value, message=verdict.message + aside)
    if situation.desired == 0:
        message = "no replica runs; the next request is held while one starts"
        return _true(kind, Reason.SCALED_TO_ZERO, message + aside)
    if len(situation.ready) < situation.desired:
        message = f"{len(situation.ready)} of {plural(situation.desired, 'replica')} ready: {situation.scaling_reason}"
        return (_true if enough else _false)(kind, Reason.SCALING, message + aside)
    return _true(kind, Reason.SERVING, f"{plural(len(situation.ready), 'replica')} ready{aside}")


def pool_verdicts(pool: Pool, *, capacity_known: bool, trouble: str = "") -> tuple[Verdict, ...]:
    """Every condition of a pool; `trouble` is why a pod of it does not come up."""
    kind = ConditionType.READY
    if trouble:
        return (_false(kind, Reason.WORKERS_FAILING, trouble),)
    if not capacity_known:
        return (
            _unknown(kind, Reason.CAPACITY_AWAY, "Ray does not answer; what is known of the pool is old"),
        )
    if pool.deleted:
        return (_false(kind, Reason.DELETING, f"{plural(len(pool.retiring), 'node')} still to be emptied"),)
    if not pool.nodes:
        return (
            _false(kind, Reason.NO_NODES, "no node is in the pool: see its nodeSelector and accelerator"),
        )
    if pool.retiring:
        moved = f"{plural(len(pool.retiring), 'node')} being emptied, {len(pool.present)} to go on with"
        return (_false(kind, Reason.REPLACING_WORKERS, moved),)
    more = len(pool.nodes) - len(pool.present)
    grown = f"; {more} more when models need them" if more else ""
    message = f"{plural(len(pool.present), 'node')} of {pool.accelerator}{grown}"
    return (_true(kind, Reason.CAPACITY_READY, message),)


def _progress(situation: Situation) -> tuple[Reason, str]:
    """What the starting replicas are at; the furthest one speaks for all."""
    order = [SlotPhase.PENDING, SlotPhase.DOWNLOADING, SlotPhase.LOADING, SlotPhase.PROBING]
    starting = [slot for slot in situation.slots if slot.phase in order]
    if not starting:
        return Reason.STARTING, situation.scaling_reason
    slot = max(starting, key=lambda each: (order.index(each.phase), each.bytes_done, each.name))
    words = [f"{slot.name} is {slot.phase.lower()}"]
    if slot.bytes_total:
        words.append(f"{format_bytes(slot.bytes_done)} of {format_bytes(slot.bytes_total)}")
    if slot.eta_seconds is not None:
        words.append(f"about {format_duration(slot.eta_seconds)} left")
    if slot.message:
        words.append(first_line(slot.message))
    reason = Reason.DOWNLOADING if slot.phase is SlotPhase.DOWNLOADING else Reason.STARTING
    return reason, ", ".join(words)


def _true(kind: ConditionType, reason: Reason, message: str) -> Verdict:
    return Verdict(type=kind.value, status=True, reason=reason.value, message=message)


def _false(kind: ConditionType, reason: Reason, message: str) -> Verdict:
    return Verdict(type=kind.value, status=False, reason=reason.value, message=message)


def _unknown(kind: ConditionType, reason: Reason, message: str) -> Verdict:
    return Verdict(type=kind.value, status=None, reason=reason.value, message=message)
