"""What users of a replica would see: time to first token, time per token, tokens a second, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import ceil

from plinth.api.v1alpha1 import Task
from plinth.domain.quantities import ceil_div
from plinth.domain.sizing.batching import Capacity, ClosedLoop, Served, serve
from plinth.domain.sizing.calibration import CALIBRATION, Calibration
from plinth.domain.sizing.engine_defaults import batch_limits
from plinth.domain.sizing.memory import MemoryPlan
from plinth.domain.sizing.request import FULL_SPEED_PERMILLE, SizingRequest
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.steps import Batch, StepClock
from plinth.domain.sizing.work import step_work

ROUNDS = 3
"""How often each user asks: the first round comes all at once, the later ones as answers end."""
_SECONDS_AN_HOUR = 3600
_MILLION = 1_000_000
_CENTS_OF_A_CENT = Decimal("0.0001")
_MEDIAN = 50
_LATEST = 99
_serve = lru_cache(maxsize=4096)(serve)
"""Pure, and remembered: loads that differ in goals alone, or in room that they do not need, fare alike."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of a closed loop of `concurrency` users on one replica."""

    ttft_p50_milliseconds: int
    ttft_p99_milliseconds: int
    ttft_milliseconds: int
    """At the percentile that the goals name."""
    tpot_microseconds: int
    """Median over requests of the time per token after the first."""
    tpot_at_goal_microseconds: int
    """At the percentile that the goals name."""
    tokens_per_second: int
    """Generated tokens; of a model that generates none, tokens read."""
    cost_per_million_tokens: str


def predict(
    request: SizingRequest,
    shape: Shape,
    memory: MemoryPlan,
    *,
    requests: int = 0,
    calibration: Calibration = CALIBRATION,
) -> Prediction:
    """How one shape would serve the stated load; `requests` in all, or `ROUNDS` a user.

    Copies share the users out. They may share a front end as well, which then has the work of all.
    """
    load, streams = request.load, _streams(request, shape)
    generates = request.model.task is Task.GENERATE
    loop = ClosedLoop(
        users=ceil_div(load.concurrency, streams),
        requests=ceil_div(requests or ROUNDS * load.concurrency, streams),
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens if generates else 0,
    )
    clock = _clock(request, shape, calibration)
    served = _serve(clock, loop, _capacity(request, shape, memory, calibration))
    made = loop.output_tokens if generates else loop.input_tokens
    return _prediction(request, shape, calibration, served, made * streams)


def most_tokens_per_second(
    request: SizingRequest, shape: Shape, calibration: Calibration = CALIBRATION
) -> int | None:
    """What no load of so many users exceeds: they decode all the time, evenly over copies and stages, behind their prompts.

    It takes one step's time and no played load. None where nothing is generated.
    """
    load = request.load
    if request.model.task is not Task.GENERATE:
        return None
    streams = _streams(request, shape)
    users = ceil_div(ceil_div(load.concurrency, streams), shape.pipeline)
    step = Batch(decoding=users, remembered=users * load.input_tokens)
    pace = _clock(request, shape, calibration).step_microseconds(step)
    at_once = users * shape.pipeline * streams
    return ceil(at_once * _MILLION * request.speed_permille / (pace * FULL_SPEED_PERMILLE))


def _streams(request: SizingRequest, shape: Shape) -> int:
    """Copies that have something to do."""
    return min(shape.data, request.load.concurrency)


def _clock(request: SizingRequest, shape: Shape, calibration: Calibration) -> StepClock:
    in_a_node = shape.accelerators <= request.place.accelerators_per_node
    return StepClock(
        work=step_work(request.model, shape, request.options.kv_element_bytes),
        shape=shape,
        accelerator=request.place.accelerator,
        constants=calibration.speed,
        across_nodes=not in_a_node,
        copies_a_front_end=ceil_div(shape.data, request.options.front_ends),
    )


def _capacity(request: SizingRequest, shape: Shape, memory: MemoryPlan, calibration: Calibration) -> Capacity:
    """What one stream may hold: vLLM's limits, and the whole requests that its share of the cache has room for.

    No more than all users ask for at once: it would make no difference.
    """
    place, load, speed = request.place, request.load, calibration.speed
    streams = _streams(request, shape)
    limits = batch_limits(place.accelerator, place.total_bytes, request.options)
    length = load.input_tokens + load.output_tokens
    room = memory.kv_tokens // (length * streams) if memory.kv_tokens else limits.sequences
    a_request = speed.admission_microseconds + speed.admission_token_microseconds * load.input_tokens
    return Capacity(
        step_tokens=limits.tokens,
        requests=max(1, min(limits.sequences, room, ceil_div(load.concurrency, streams))),
        admission_microseconds=a_request * ceil_div(streams, request.options.front_ends),
        stages=shape.pipeline,
    )


def _prediction(
    request: SizingRequest, shape: Shape, calibration: Calibration, served: Served, tokens_a_request: int
) -> Prediction:
    slower = FULL_SPEED_PERMILLE / request.speed_permille
    before, goal = calibration.speed.request_microseconds, request.goals.percentile
    first = [
        round((each * slower + before) / 1000) for each in served.ttft.percentiles(_MEDIAN, _LATEST, goal)
    ]
    pause = [round(each * slower) for each in served.tpot.percentiles(_MEDIAN, goal)]
    speed = round(served.requests * tokens_a_request / (served.duration * slower) * _MILLION)
    return Prediction(
        ttft_p50_milliseconds=first[0],
        ttft_p99_milliseconds=first[1],
        ttft_milliseconds=first[2],
        tpot_microseconds=pause[0],
        tpot_at_goal_microseconds=pause[1],
        tokens_per_second=speed,
        cost_per_million_tokens=_cost(request.place.cost_per_accelerator_hour, shape.accelerators, speed),
    )


def _cost(an_hour: str, accelerators: int, tokens_per_second: int) -> str:
    """Money for a million tokens at full load: `3.9` an hour, 2 accelerators, 2400 tokens/s is `0.9028`."""
    if tokens_per_second == 0:
        return "0"
    tokens = Decimal(tokens_per_second * _SECONDS_AN_HOUR)
    cost = Decimal(an_hour) * accelerators * _MILLION / tokens
    return format(cost.quantize(_CENTS_OF_A_CENT).normalize(), "f")
