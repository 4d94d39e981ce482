"""How a replica leaves: it gets no new request, its requests end in peace, then it goes."""

from __future__ import annotations

from dataclasses import dataclass

from plinth.domain.fleet import Slot, SlotAction, SlotPhase, SlotPlan
from plinth.domain.quantities import format_duration, plural
from plinth.domain.traffic import LoadReport, ReplicaLoad, ReplicaState


def is_routable(slot: Slot) -> bool:
    """Whether the gateway was ever given this replica as it stands: ready, at a known address."""
    return slot.phase is SlotPhase.READY and slot.host is not None and slot.port is not None


@dataclass(frozen=True, kw_only=True)
class Departure:
    """What the way out of replicas depends on."""

    report: LoadReport | None
    drain_timeout_seconds: int
    now: float


def leave(slot: Slot, why: str, departure: Departure) -> SlotPlan:
    """Remove the replica when nothing can be lost by it, else drain it.

    An idle replica is only gone for good when the gateway itself lists it as draining with nothing in flight: a
    report older than that could miss a request that was just sent to it.
    """
    load = departure.report.replicas.get(str(slot.name)) if departure.report else None
    ended = _ended(slot, load, departure)
    action = SlotAction.DRAIN if ended is None else SlotAction.REMOVE
    state = ended or _waiting_for(load)
    return SlotPlan.of(slot, action, f"{why}; {state}")


def timeout_at(slot: Slot, departure: Departure) -> float | None:
    """When a draining replica goes whatever it does."""
    if slot.draining_since is None:
        return None
    return slot.draining_since + departure.drain_timeout_seconds


def _ended(slot: Slot, load: ReplicaLoad | None, departure: Departure) -> str | None:
    in_flight = load.in_flight if load else 0
    if not is_routable(slot) and in_flight == 0:
        return "no request was ever sent to it"
    if load is not None and load.state is ReplicaState.DRAINING and in_flight == 0:
        return "its requests have ended"
    due = timeout_at(slot, departure)
    if due is not None and departure.now >= due:
        waited = format_duration(departure.drain_timeout_seconds)
        return f"drainTimeoutSeconds ({waited}) is over, {plural(in_flight, 'request')} cut"
    return None


def _waiting_for(load: ReplicaLoad | None) -> str:
    if load is None or load.state is not ReplicaState.DRAINING:
        return "waiting for the gateway to stop sending to it"
    return f"waiting for {plural(load.in_flight, 'request')} to end"
