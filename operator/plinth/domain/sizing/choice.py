"""The choice of a shape: the least cost that meets the goals; else the best trade there is, and by how much it misses.

Candidates come with few accelerators first. Those with the fewest that fit are judged by what they are predicted to
do; if one meets the goals, no larger one is looked at. So a light load takes few accelerators and a heavy one more,
small models come out as replicas of one accelerator and large ones split. Where none meets them, more accelerators are
taken as long as they bring it clearly nearer. Every candidate passed by says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from plinth.domain.fleet import Engine
from plinth.domain.quantities import ceil_div, format_bytes, format_count, plural
from plinth.domain.sizing.calibration import CALIBRATION, Calibration
from plinth.domain.sizing.candidates import find_candidates
from plinth.domain.sizing.goals import (
    Missed,
    Promise,
    describe_users,
    find_misses,
    make_promise,
    predict_for,
    worst_of,
)
from plinth.domain.sizing.kernels import refuse_on_kind
from plinth.domain.sizing.memory import MemoryPlan, plan_memory
from plinth.domain.sizing.performance import Prediction, most_tokens_per_second, predict
from plinth.domain.sizing.refusals import FIELD, refuse_asked, refuse_asked_on
from plinth.domain.sizing.request import SizingRequest
from plinth.domain.sizing.rules import find_obstacle
from plinth.domain.sizing.shape import Rejected, Shape

SMALLER = "lower spec.objectives.concurrency or contextTokens, take a quantised model, or a spec.pool with more memory"
"""What a model that does not fit can do."""
_WORTH_PERCENT = 110
"""A less plain shape of as many accelerators must give so much of the plain one's tokens a second."""
_MOST_REJECTED = 16


@dataclass(frozen=True, kw_only=True)
class ShapeChoice:
    """The shape of every replica, what it takes and what it is predicted to do."""

    shape: Shape
    memory: MemoryPlan
    predicted: Prediction
    promise: Promise
    reasons: tuple[str, ...]
    rejected: tuple[Rejected, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """The goals that it does not meet, with by how much; empty where it meets all."""
        return tuple(each.sentence for each in self.promise.misses)


@dataclass(frozen=True, kw_only=True)
class SizingRefusal:
    """No shape; the message names each candidate and its obstacle."""

    message: str


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A shape that fits, and what it would do."""

    shape: Shape
    memory: MemoryPlan
    predicted: Prediction
    misses: tuple[Missed, ...]

    @property
    def missed(self) -> str:
        return "; ".join(each.sentence for each in self.misses)


def choose(request: SizingRequest, calibration: Calibration = CALIBRATION) -> ShapeChoice | SizingRefusal:
    """The best shape for the request, or why there is none."""
    refusal = (
        refuse_asked(request.model, request.asked)
        or refuse_asked_on(request.place, request.asked)
        or (
            refuse_on_kind(request.model, request.place.accelerator)
            if request.engine is Engine.VLLM
            else None
        )
    )
    if refusal is not None:
        return SizingRefusal(message=refusal)
    rejected: list[Rejected] = []
    options: list[_Option] = []
    candidates = find_candidates(request)
    for count, shapes in groupby(candidates, key=lambda shape: shape.accelerators):
        if options and count > request.place.accelerators_per_node:
            break  # what one node holds gains more by replicas than by stages on several
        same: list[_Option] = []
        for shape in shapes:
            judged = _judge(request, shape, calibration, same)
            if isinstance(judged, _Option):
                same.append(judged)
            elif judged.reason not in {each.reason for each in rejected}:
                rejected.append(judged)  # what stops TP3 stops TP3 x PP2 as well: said once
        options += same
        if any(not option.misses for option in same):
            larger = _next_larger(request, candidates, count)
            return _decide(request, options, rejected, larger, calibration)
    if options:
        return _decide(request, options, rejected, None, calibration)
    return _refuse(request, rejected)


def _next_larger(request: SizingRequest, candidates: Iterable[Shape], accelerators: int) -> Shape | None:
    larger = (shape for shape in candidates if shape.accelerators > accelerators)
    return next((shape for shape in larger if find_obstacle(request.model, shape) is None), None)


def _judge(
    request: SizingRequest, shape: Shape, calibration: Calibration, same: Sequence[_Option]
) -> _Option | Rejected:
    """The shape as an option beside those of the `same` number of accelerators."""
    obstacle = find_obstacle(request.model, shape)
    if obstacle is not None:
        return Rejected(shape=shape, reason=obstacle)
    memory = plan_memory(request, shape, calibration)
    obstacle = _memory_obstacle(request, memory)
    if obstacle is not None:
        return Rejected(shape=shape, reason=obstacle)
    obstacle = _slower(request, shape, same, calibration)
    if obstacle is not None:
        return Rejected(shape=shape, reason=obstacle)
    predicted = predict(request, shape, memory, calibration=calibration)
    return _Option(
        shape=shape, memory=memory, predicted=predicted, misses=find_misses(request.goals, predicted)
    )


def _slower(
    request: SizingRequest, shape: Shape, same: Sequence[_Option], calibration: Calibration
) -> str | None:
    """Why the shape cannot be clearly faster than a plainer one that meets the goals; what is not, need not be played."""
    meeting = [option for option in same if not option.misses]
    most = most_tokens_per_second(request, shape, calibration) if meeting else None
    if most is None:
        return None
    best = _best(meeting)
    speed = best.predicted.tokens_per_second
    if most * 100 > speed * _WORTH_PERCENT:
        return None
    return f"as many accelerators for at most {most} tokens/s, {best.shape} has {speed}"


def _memory_obstacle(request: SizingRequest, memory: MemoryPlan) -> str | None:
    load = request.load
    if memory.kv_bytes <= 0:
        usable = format_bytes(request.place.engine_bytes)
        if memory.adapter_bytes and memory.kv_bytes + memory.adapter_bytes > 0:
            adapters = format_bytes(memory.adapter_bytes)
            return (
                f"room for adapters of {adapters} an accelerator leaves none for KV in {usable};"
                " lower spec.adapters[].rank or max-loras"
            )
        weights = format_bytes(memory.weights_bytes)
        return f"weights of {weights} an accelerator leave no room for KV in {usable}"
    if memory.full_requests < load.concurrency:
        context = format_count(load.context_tokens)
        return f"its KV cache holds {memory.full_requests} requests of {context} tokens, {load.concurrency} asked"
    return None


def _decide(
    request: SizingRequest,
    options: list[_Option],
    rejected: list[Rejected],
    larger: Shape | None,
    calibration: Calibration,
) -> ShapeChoice:
    chosen = _best(options)
    for option in options:
        if option is not chosen:
            reason = _why_not(request, option, chosen, calibration)
            rejected.append(Rejected(shape=option.shape, reason=reason))
    if larger is not None:
        more = plural(larger.accelerators - chosen.shape.accelerators, "accelerator")
        rejected.append(Rejected(shape=larger, reason=f"{more} more for the same goals"))
    rejected.sort(key=lambda each: each.shape.accelerators)
    promise = make_promise(request, chosen.shape, chosen.predicted, calibration)
    return ShapeChoice(
        shape=chosen.shape,
        memory=chosen.memory,
        predicted=chosen.predicted,
        promise=promise,
        reasons=tuple(_reasons(request, chosen, promise)),
        rejected=tuple(rejected[:_MOST_REJECTED]),
    )


def _best(options: list[_Option]) -> _Option:
    """The plainest of those that meet the goals, or one that is clearly faster; else the best trade."""
    meeting = [option for option in options if not option.misses]
    if not meeting:
        return min(options, key=_trade)
    best = meeting[0]
    for option in meeting[1:]:
        if option.predicted.tokens_per_second * 100 > best.predicted.tokens_per_second * _WORTH_PERCENT:
            best = option
    return best


def _trade(option: _Option) -> tuple[int, int]:
    """The least is best: miss² · accelerators, so twice as many must bring it nearer by 1 - 1/√2 = 29%.

    Four times too slow on one, 2.5 times on two and 2.3 times on four: two, with 12.5 after 16 and before 21.
    """
    return (worst_of(option.misses) ** 2 * option.shape.accelerators, option.shape.accelerators)


def _why_not(request: SizingRequest, option: _Option, chosen: _Option, calibration: Calibration) -> str:
    more = option.shape.accelerators - chosen.shape.accelerators
    if not option.misses:
        speeds = option.predicted.tokens_per_second, chosen.predicted.tokens_per_second
        return f"as many accelerators for {speeds[0]} tokens/s, {chosen.shape} has {speeds[1]}"
    if chosen.misses and more > 0 and worst_of(option.misses) < worst_of(chosen.misses):
        return f"still {option.missed}, for {plural(more, 'accelerator')} more"
    return f"{option.missed}{_as_replicas(request, option.shape, chosen.shape.accelerators, calibration)}"


def _as_replicas(request: SizingRequest, shape: Shape, accelerators: int, calibration: Calibration) -> str:
    """What no more accelerators would do as several replicas of a smaller shape, if that meets the goals."""
    replicas = accelerators // shape.accelerators
    if replicas < 2:  # noqa: PLR2004 - one replica is the shape itself
        return ""
    each = ceil_div(request.load.concurrency, replicas)
    predicted = predict_for(request, shape, each, calibration)
    if find_misses(request.goals, predicted):
        return ""
    together = predicted.tokens_per_second * replicas
    return f"; {replicas} replicas with a concurrency of {each} would meet it, {together} tokens/s together"


def _reasons(request: SizingRequest, chosen: _Option, promise: Promise) -> Iterator[str]:
    shape, memory, predicted, load = chosen.shape, chosen.memory, chosen.predicted, request.load
    if request.asked.is_anything:
        how = "asked for by hand"
    elif chosen.misses:
        how = "the best trade between accelerators and goals that are missed"
    else:
        how = "the fewest accelerators that hold the load and meet the goals"
    room = f"KV {format_bytes(max(0, memory.kv_bytes))}"
    if memory.kv_tokens:
        context = format_count(load.context_tokens)
        room += f" = {format_count(memory.kv_tokens)} tokens = {memory.full_requests} requests of {context}"
    if memory.adapter_bytes:
        room = f"adapters {format_bytes(memory.adapter_bytes)}, {room}"
    yield f"{shape} ({how}): weights {format_bytes(memory.weights_bytes)} an accelerator, {room}"
    yield (
        f"at {load.concurrency} users, {load.input_tokens} tokens in and {load.output_tokens} out:"
        f" TTFT p50 {predicted.ttft_p50_milliseconds} ms, p99 {predicted.ttft_p99_milliseconds} ms,"
        f" TPOT {predicted.tpot_microseconds / 1000:.1f} ms, {predicted.tokens_per_second} tokens/s"
    )
    if promise.misses:
        yield f"no shape here meets the goals: {chosen.missed}, {describe_users(promise.users)}"


def _refuse(request: SizingRequest, rejected: list[Rejected]) -> SizingRefusal:
    place = request.place
    tried = "; ".join(f"{each.shape}: {each.reason}" for each in rejected[:_MOST_REJECTED])
    where = f"{plural(place.nodes, 'node') if place.nodes > 1 else 'one node'} of pool {place.pool}"
    if not place.pool:
        where = f"{plural(place.nodes, 'node')} of {place.accelerators_per_node} x {place.accelerator.name}"
    blamed = f"{FIELD}: " if request.asked.is_anything else ""
    return SizingRefusal(message=f"{blamed}no shape fits {where}: {tried or 'there is none'}; {SMALLER}")
