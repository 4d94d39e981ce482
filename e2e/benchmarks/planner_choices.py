"""Whether the planner would have chosen what measured best, of all that was measured for a model and a load.

A question is a model, so many users and an objective. Its answers are the uses of accelerators that were measured: one
replica of each shape, and several smaller ones that share the users. Throughput counts for each accelerator. Levels
that the start of another engine disturbed are compared with such alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner_prediction import Level, Measured, predict_level

NOISE = 1.05
"""Two equal engines on two accelerators were seen to differ by so much: nearer than that, neither is better."""
_THROUGHPUT = "tokens_per_second"
OBJECTIVES = (_THROUGHPUT, "ttft_p99_ms", "tpot_ms")


@dataclass(frozen=True, kw_only=True)
class Use:
    """Replicas of one measured engine, each with its share of the users."""

    case: Measured
    level: Level
    replicas: int

    @property
    def accelerators(self) -> int:
        """Of all replicas."""
        return self.replicas * self.case.shape.accelerators

    def __str__(self) -> str:
        """`2 x TP1`."""
        return f"{self.replicas} x {self.case.shape}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What measured best for one objective, and what the planner would have taken. Scores are higher where better."""

    what: str
    objective: str
    is_disturbed: bool
    best: str
    chosen: str
    lost: float
    """How many times better the best one measured."""

    @property
    def is_miss(self) -> bool:
        """Whether another measured better, beyond noise."""
        return self.lost > NOISE


def find_questions(cases: Sequence[Measured]) -> list[Question]:
    """Every question to which at least two answers were measured, one of them as it stands."""
    answers: dict[tuple[object, ...], list[Use]] = defaultdict(list)
    for case in cases:
        for level in case.levels:
            for replicas in (1, 2):
                users, *tokens = level.load
                kv, alike = case.request.options.kv_element_bytes, level.is_disturbed
                key = (case.model, kv, alike, users * replicas, *tokens)
                answers[key].append(Use(case=case, level=level, replicas=replicas))
    return [
        question
        for (model, _, _, users, tokens, _), uses in answers.items()
        if len(uses) > 1 and any(use.replicas == 1 for use in uses)
        for question in _ask(f"{model}, {users} users of {tokens}", uses)
    ]


def _ask(what: str, uses: Sequence[Use]) -> Iterator[Question]:
    # The plainer of two that are predicted alike: fewer accelerators, then no more kinds of parallelism than needed.
    plain = sorted(uses, key=lambda use: (use.accelerators, len(str(use.case.shape))))
    predictions = [predict_level(use.case, use.level) for use in plain]
    for objective in OBJECTIVES:
        measured = [_score(use, objective, use.level.figures[objective]) for use in plain]
        predicted = [
            _score(use, objective, found[objective]) for use, found in zip(plain, predictions, strict=True)
        ]
        chosen, best = predicted.index(max(predicted)), measured.index(max(measured))
        yield Question(
            what=what,
            objective=objective,
            is_disturbed=plain[best].level.is_disturbed,
            best=str(plain[best]),
            chosen=str(plain[chosen]),
            lost=round(measured[best] / measured[chosen], 3),
        )


def _score(use: Use, objective: str, figure: float) -> float:
    if objective != _THROUGHPUT:
        return 1 / figure
    return figure / use.case.shape.accelerators
