"""Whether a shape meets the goals, by how much it misses them, for how many users it would, and what that costs.

Part of `choice`; what is predicted of a replica on a CPU is held against its goals here as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from plinth.domain.quantities import ceil_div, plural
from plinth.domain.sizing.calibration import CALIBRATION, Calibration
from plinth.domain.sizing.memory import plan_memory
from plinth.domain.sizing.performance import Prediction, predict
from plinth.domain.sizing.request import Goals, SizingRequest
from plinth.domain.sizing.shape import Shape

WHOLE = 1000
"""A goal that is just met, in thousandths."""
_EXACT_TO = 8
"""The users within the goals are told to an eighth."""
_PRICE_UNIT = 10**9


@dataclass(frozen=True, kw_only=True)
class Missed:
    """One goal that is not met."""

    permille: int
    """What is predicted, in thousandths of what was asked."""
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a replica is predicted to make of its goals."""

    misses: tuple[Missed, ...]
    """The goals that it does not meet with the stated users; empty where it meets all."""
    users: int
    """At so many users at once it meets them: those that are stated, or fewer; 0: not even for one."""
    price: int
    """Of what it delivers: money an hour / tokens a second, in thousand-millionths; 0 where the pool has no price."""

    @property
    def worst(self) -> int:
        """The goal that is missed most, see `Missed`; 1000 where all are met."""
        return worst_of(self.misses)

    @property
    def cost_per_million_tokens(self) -> str:
        """The price as people say it: two accelerators of 3.9 an hour for 2400 tokens/s are 3,250,000, and `0.9028`."""
        million = Decimal(self.price) * 10**6 / (_PRICE_UNIT * 3600)
        return format(million.quantize(Decimal("0.0001")).normalize(), "f")


def make_promise(
    request: SizingRequest, shape: Shape, predicted: Prediction, calibration: Calibration = CALIBRATION
) -> Promise:
    """What the prediction for the stated users says of the goals."""
    misses = find_misses(request.goals, predicted)
    users = users_within(request, shape, calibration) if misses else request.load.concurrency
    an_hour = Decimal(request.place.cost_per_accelerator_hour) * shape.accelerators
    return Promise(
        misses=misses,
        users=users,
        price=int(an_hour * _PRICE_UNIT / max(1, predicted.tokens_per_second)),
    )


def find_misses(goals: Goals, predicted: Prediction) -> tuple[Missed, ...]:
    """The goals that are not met."""
    return tuple(_misses(goals, predicted))


def _misses(goals: Goals, predicted: Prediction) -> Iterator[Missed]:
    pairs = (
        ("TTFT", goals.ttft_milliseconds, predicted.ttft_milliseconds),
        ("TPOT", goals.tpot_milliseconds, ceil_div(predicted.tpot_at_goal_microseconds, 1000)),
    )
    for name, asked, would in pairs:
        if asked is not None and would > asked:
            sentence = f"{name} p{goals.percentile} {would} ms, {asked} asked"
            yield Missed(permille=would * WHOLE // asked, sentence=sentence)


def worst_of(misses: tuple[Missed, ...]) -> int:
    """By how much the goal that is missed most is missed, in thousandths; 1000 where all are met."""
    return max((each.permille for each in misses), default=WHOLE)


def predict_for(
    request: SizingRequest, shape: Shape, users: int, calibration: Calibration = CALIBRATION
) -> Prediction:
    """What the shape does for so many users at once, instead of those that the request states."""
    fewer = replace(request, load=replace(request.load, concurrency=users))
    return predict(fewer, shape, plan_memory(fewer, shape, calibration), calibration=calibration)


def users_within(request: SizingRequest, shape: Shape, calibration: Calibration = CALIBRATION) -> int:
    """Users at once that a shape serves within its goals, where it does not those that are stated; 0: not even one.

    Halved until they are met, then narrowed to an eighth: what is looked for is how many replicas a load needs.
    """

    def meets(users: int) -> bool:
        return not find_misses(request.goals, predict_for(request, shape, users, calibration))

    above = request.load.concurrency
    below = above // 2
    while below and not meets(below):
        above, below = below, below // 2
    while below and (above - below) * _EXACT_TO > below and above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if meets(middle) else (below, middle)
    return below


def describe_users(users: int) -> str:
    """What it takes to meet goals that are missed with the stated users."""
    return f"{plural(users, 'user')} at once would be within them" if users else "nor would a single user"
