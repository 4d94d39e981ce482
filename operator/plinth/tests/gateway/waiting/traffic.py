"""Seeded traffic for the simulation: keys with Poisson arrivals, prompts and answers of log-normal length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random

from plinth.domain.access import Band
from plinth.tests.gateway.waiting.simulation import Request

PROMPT, OUTPUT = (math.log(800), 0.8), (math.log(150), 0.7)
"""Of the logarithm: the median, and the spread. Means of 1,100 and 190 tokens."""
MOST_PROMPT, MOST_OUTPUT = 8000, 2000


def make_traffic(
    key: str,
    *,
    rate: float,
    seconds: float,
    seed: int,
    start: float = 0.0,
    band: Band = "default",
    patience: float = 300.0,
) -> Iterator[Request]:
    """One key's requests: `rate` a second, for so many seconds."""
    rng = Random(f"{seed} {key}")  # noqa: S311 - a simulation must repeat itself
    now = start + rng.expovariate(rate)
    while now < start + seconds:
        prompt = min(MOST_PROMPT, max(1, round(rng.lognormvariate(*PROMPT))))
        output = min(MOST_OUTPUT, max(1, round(rng.lognormvariate(*OUTPUT))))
        yield Request(now, key, prompt, output, band=band, patience=patience)
        now += rng.expovariate(rate)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
