"""How measured throughput corrects later plans: a bounded factor for each model, moved seldom and always shown.

The gateway's reports give stretches of steady load (`controllers.speeds` cuts them out); each is held against what was
computed for as many requests in flight. The median of these ratios becomes the factor, if there are enough of them:

    factor = median(measured / computed) in thousandths, to the nearest 50, between 500 and 1500

A factor that changed with every report would change the plan with it, and each new shape is a rollout. So the one in use
stays while the median is within 10% of it. It belongs to a model and outlives a change of its shape, whose stretches
are then held against what was computed for the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median_low

from plinth.domain.figures import THOUSAND, Correction, Prediction, SpeedFigures, is_apart

LEAST_STRETCHES = 6
"""With fewer nothing is concluded; at ten seconds each, a minute of load."""
LEAST_THOUSANDTHS, MOST_THOUSANDTHS = 500, 1500
"""Beyond these bounds something else is wrong than an estimate: a shared accelerator, a hot one, another workload."""
STEP_THOUSANDTHS = 50
NEAR_PERCENT = 20
"""The computed throughput holds for the stated concurrency, and for loads that are so near to it."""


@dataclass(frozen=True, kw_only=True)
class SpeedStretch:
    """What one replica of a revision delivered while the load on it was steady."""

    revision: str
    in_flight: int
    """Requests on one replica, on average."""
    tokens_per_second: int
    """Output tokens of one replica."""


def correct(held: Correction, stretches: Iterable[SpeedStretch], computed: SpeedFigures | None) -> Correction:
    """The factor to plan by from now on, given the one in use and what was measured of the computed shape."""
    ratios = list(_ratios(stretches, computed)) if computed else []
    if len(ratios) < LEAST_STRETCHES:
        return held
    middle = median_low(ratios)
    rounded = (middle + STEP_THOUSANDTHS // 2) // STEP_THOUSANDTHS * STEP_THOUSANDTHS
    bounded = min(max(rounded, LEAST_THOUSANDTHS), MOST_THOUSANDTHS)
    if bounded == held.thousandths or not is_apart(held.thousandths, middle):
        return held
    return Correction(thousandths=bounded, stretches=len(ratios))


def _ratios(stretches: Iterable[SpeedStretch], computed: SpeedFigures) -> Iterator[int]:
    """Measured by computed throughput, in thousandths, of the stretches that can be held against each other."""
    for each in stretches:
        near = abs(each.in_flight - computed.concurrency) * 100 <= NEAR_PERCENT * computed.concurrency
        if near and computed.tokens_per_second > 0:
            yield each.tokens_per_second * THOUSAND // computed.tokens_per_second


def describe_correction(prediction: Prediction) -> str:
    """The plan's sentence about it; empty while speed is planned as computed."""
    correction = prediction.correction
    if correction.thousandths == THOUSAND:
        return ""
    percent = correction.thousandths // 10
    measured = f"the median of {correction.stretches} measured stretches of load"
    return f"throughput is counted at {percent}% of what was computed: {measured}"
