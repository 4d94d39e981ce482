"""How many replicas a model wants: from the gateway's load, up at once, down after a quiet time, to zero and back.

Unknown load is not zero load: without a report, or before one quiet time was watched, nothing goes down.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.api.v1alpha1 import Scaling
from plinth.domain.fleet import LoadWindow
from plinth.domain.quantities import ceil_div, format_duration, plural
from plinth.domain.traffic import ModelLoad

HUNDRED_PERCENT = 100


@dataclass(frozen=True, kw_only=True)
class ScalingRequest:
    """What the decision depends on."""

    scaling: Scaling
    concurrency: int
    """Requests that one replica holds at once."""
    window: LoadWindow
    load: ModelLoad | None
    """None: unknown."""
    current: int
    """Replicas wanted so far, those still starting and those being replaced included."""
    answered: bool
    """Whether this revision has ever answered; until then one replica at least is tried."""
    newest_ready_at: float | None
    """When the newest replica became ready; none goes before it had its quiet time."""


@dataclass(frozen=True, kw_only=True)
class ScalingDecision:
    """How many, why, and when time alone would change it."""

    replicas: int
    reason: str
    next_change_at: float | None = None


def replicas_for(load: int, *, scaling: Scaling, concurrency: int) -> int:
    """Replicas that keep `load` requests at the target: ceil(load / (concurrency · target%)), one request at least.

    60 requests at concurrency 8 and 80%: ceil(60 / 6.4) = 10.
    """
    return ceil_div(load * HUNDRED_PERCENT, _percent_requests(scaling, concurrency))


def _percent_requests(scaling: Scaling, concurrency: int) -> int:
    """Hundredths of requests that one replica is to have at most: one whole request at least."""
    return max(concurrency * scaling.target_utilization_percent, HUNDRED_PERCENT)


def desired_replicas(request: ScalingRequest, now: float) -> ScalingDecision:
    """The number wanted now, within [minReplicas, maxReplicas]."""
    bounds = request.scaling
    floor = _floor(request)
    current = min(max(request.current, floor), max(bounds.max_replicas, floor))
    load = request.load.in_flight + request.load.queued if request.load else 0
    needed = _replicas_within_bounds(request, load)
    if needed > current:
        return ScalingDecision(replicas=needed, reason=_up_reason(request, load, needed, floor))
    if current == floor:
        return ScalingDecision(replicas=current, reason=_floor_reason(request, floor))
    watched_since = request.window.watched_since
    if request.load is None or watched_since is None:
        reason = f"{plural(current, 'replica')}: the load is unknown, so none goes"
        return ScalingDecision(replicas=current, reason=reason)
    trusted_from = watched_since + bounds.quiet_seconds
    if request.newest_ready_at is not None:
        trusted_from = max(trusted_from, request.newest_ready_at + bounds.quiet_seconds)
    return _maybe_down(request, now, current=current, load=load, trusted_from=trusted_from)


def least_suffices_to(request: ScalingRequest, decision: ScalingDecision) -> int:
    """The load up to which a model goes on with its least number of replicas; -1 for one that has, or wants, more.

    8 requests a replica, 80% and a least of 2: 12, for 13 requests want a third.
    """
    bounds, floor = request.scaling, _floor(request)
    current = min(max(request.current, floor), max(bounds.max_replicas, floor))
    if not current == decision.replicas == floor:
        return -1
    return floor * _percent_requests(bounds, request.concurrency) // HUNDRED_PERCENT


def _maybe_down(
    request: ScalingRequest, now: float, *, current: int, load: int, trusted_from: float
) -> ScalingDecision:
    """Step down to what the peak of the last quiet time needs, or say when that could come to be less."""
    quiet = request.scaling.quiet_seconds
    recent = [(at, peak) for at, peak in request.window.samples if at > now - quiet]
    peak = max([load, *(peak for _, peak in recent)])
    lasting = _replicas_within_bounds(request, peak)
    if lasting < current and now >= trusted_from:
        reason = (
            f"{plural(lasting, 'replica')}: the load stayed at {peak} or less for {format_duration(quiet)}"
        )
        falls_at = _next_fall(request, recent, load=load, below=lasting)
        return ScalingDecision(replicas=lasting, reason=reason, next_change_at=falls_at)
    falls_at = trusted_from if lasting < current else _next_fall(request, recent, load=load, below=current)
    reason = (
        f"{plural(current, 'replica')}: the load is {load}, at most {peak} within {format_duration(quiet)}"
    )
    due = None if falls_at is None else max(falls_at, trusted_from)
    return ScalingDecision(replicas=current, reason=reason, next_change_at=due)


def _next_fall(
    request: ScalingRequest, recent: list[tuple[float, int]], *, load: int, below: int
) -> float | None:
    """When enough of the samples will be old for the rest to need fewer than `below`, should nothing else come."""
    if _replicas_within_bounds(request, load) >= below:
        return None
    asking = (at for at, peak in reversed(recent) if _replicas_within_bounds(request, peak) >= below)
    newest = next(asking, None)
    # The newest sample that still asks for so many counts until it is a quiet time old.
    return None if newest is None else newest + request.scaling.quiet_seconds


def _replicas_within_bounds(request: ScalingRequest, load: int) -> int:
    floor = _floor(request)
    count = replicas_for(load, scaling=request.scaling, concurrency=request.concurrency)
    return min(max(count, floor), max(request.scaling.max_replicas, floor))


def _floor(request: ScalingRequest) -> int:
    least = request.scaling.min_replicas
    return least if request.answered else max(least, 1)


def _up_reason(request: ScalingRequest, load: int, needed: int, floor: int) -> str:
    if (
        needed == floor
        and replicas_for(load, scaling=request.scaling, concurrency=request.concurrency) <= floor
    ):
        return _floor_reason(request, floor)
    target = f"{request.concurrency} each at {request.scaling.target_utilization_percent}%"
    asked = f"{plural(needed, 'replica')}: {plural(load, 'request')} in flight or queued, {target}"
    return f"{asked} (maxReplicas)" if needed == request.scaling.max_replicas else asked


def _floor_reason(request: ScalingRequest, floor: int) -> str:
    if floor == 0:
        return f"0 replicas: no request for {format_duration(request.scaling.quiet_seconds)}; the next one is held"
    if floor > request.scaling.min_replicas:
        return "1 replica: this revision has not answered yet"
    return f"{plural(floor, 'replica')}: the load asks for no more than minReplicas"
