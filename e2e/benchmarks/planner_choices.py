"""Whether the planner would have chosen what measured best: every two shapes of one model that ran with one load.

Two questions, as far as levels were measured for them: which shape serves the same users better, each accelerator
counted; and which use of the same accelerators serves the same users better, one large replica or several small ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from planner_prediction import Level, Measured, predict_level

NOISE = 1.05
"""Two equal engines on two accelerators were seen to differ by so much: nearer than that, neither is better."""
_HIGHER_IS_BETTER = frozenset({"tokens_per_second"})


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Two uses of accelerators, judged by one figure; above 1, the larger shape is better."""

    what: str
    figure: str
    measured: float
    predicted: float

    @property
    def is_miss(self) -> bool:
        """Whether the planner would take the one that measured worse, beyond noise."""
        clear = max(self.measured, 1 / self.measured) > NOISE
        return clear and (self.measured > 1) != (self.predicted > 1)


def find_contests(cases: Sequence[Measured]) -> list[Contest]:
    """Every contest that the measured levels allow."""
    return [contest for small, large in _pairs(cases) for contest in _contests(small, large)]


def _pairs(cases: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    for small, large in permutations(cases, 2):
        alike = small.model == large.model and small.request.options == large.request.options
        if alike and small.shape.accelerators < large.shape.accelerators:
            yield small, large


def _contests(small: Measured, large: Measured) -> Iterator[Contest]:
    replicas = large.shape.accelerators // small.shape.accelerators
    for one in large.levels:
        for other in small.levels:
            if one.load[1:] != other.load[1:]:
                continue
            if one.users == other.users:
                yield from _judge(small, other, large, one, replicas=1)
            if one.users == other.users * replicas:
                yield from _judge(small, other, large, one, replicas=replicas)


def _judge(
    small: Measured, small_level: Level, large: Measured, large_level: Level, *, replicas: int
) -> Iterator[Contest]:
    predictions = predict_level(large, large_level), predict_level(small, small_level)
    what = (
        f"{large.name} or {replicas} x {small.name}, {large_level.users} users of {large_level.input_tokens}"
    )
    for figure in ("tokens_per_second", "ttft_p99_ms", "tpot_ms"):
        # Tokens count for each accelerator: several replicas make more, one replica takes fewer.
        share = 1.0
        if figure in _HIGHER_IS_BETTER:
            share = small.shape.accelerators / large.shape.accelerators
        ratios = [
            _better(figure, here[figure], there[figure]) * share
            for here, there in ((large_level.figures, small_level.figures), predictions)
        ]
        yield Contest(what=what, figure=figure, measured=ratios[0], predicted=ratios[1])


def _better(figure: str, large: float, small: float) -> float:
    return large / small if figure in _HIGHER_IS_BETTER else small / large
