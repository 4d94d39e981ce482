"""One replica in figures: what the plan expects of it, and what its engine told once it ran. Side by side, the same.

The planner fills a `Prediction`, a started replica an `EngineFigures`; `partings` says where they differ too much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from plinth.domain.quantities import format_bytes, format_count, scale_money

TOLERANCE_PERCENT = 10
"""Measured figures may differ from predicted ones by so much."""
THOUSAND = 1000


@dataclass(frozen=True, kw_only=True)
class MemoryFigures:
    """Memory of one replica, in bytes on its fullest accelerator; on a CPU node, in all."""

    weights_bytes: int
    kv_bytes: int
    """The KV cache as it is allocated."""
    kv_tokens: int
    """Tokens that the KV cache of the whole replica holds; 0 for a model that keeps none."""
    overhead_bytes: int | None = None
    """All else: activations, CUDA graphs, communication buffers, libraries. None: unknown."""
    adapter_bytes: int = 0
    """Planned for LoRA adapters. On accelerators it is part of the weights, as vLLM tells them."""


@dataclass(frozen=True, kw_only=True)
class EngineFigures:
    """What an engine tells of itself once it has loaded a model."""

    memory: MemoryFigures
    graph_bytes: int | None = None
    """What vLLM set aside for CUDA graphs, part of the overhead. None: it captures none, or does not tell."""


@dataclass(frozen=True, kw_only=True)
class SpeedFigures:
    """One replica at the stated concurrency and workload."""

    concurrency: int
    ttft_p50_milliseconds: int
    ttft_p99_milliseconds: int
    tpot_microseconds: int
    tokens_per_second: int
    """Output tokens of all its requests together."""
    cost_per_million_tokens: str
    """Money for a million output tokens, in the pool's currency."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """How much faster or slower replicas of a model ran than was computed; see `domain.corrections`."""

    thousandths: int = THOUSAND
    """Measured throughput by computed throughput: 850 is 15% slower than computed."""
    stretches: int = 0
    """Stretches of steady load that it is the median of; 0 while nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the plan expects of one replica."""

    memory: MemoryFigures
    computed: SpeedFigures | None = None
    """Speed as computed from the model and the accelerator alone; None while it is not computed."""
    correction: Correction = field(default_factory=Correction)

    @property
    def speed(self) -> SpeedFigures | None:
        """The speed to plan by: as computed, corrected by what was measured.

        Time to first token stays as computed: what is measured is the rate at which tokens follow each other.
        """
        computed, thousandths = self.computed, self.correction.thousandths
        if computed is None or thousandths == THOUSAND:
            return computed
        return replace(
            computed,
            tpot_microseconds=computed.tpot_microseconds * THOUSAND // thousandths,
            tokens_per_second=computed.tokens_per_second * thousandths // THOUSAND,
            cost_per_million_tokens=scale_money(computed.cost_per_million_tokens, THOUSAND, thousandths),
        )


def partings(predicted: MemoryFigures, measured: MemoryFigures) -> Iterator[str]:
    """A sentence for each figure that parts by more than the tolerance. Overhead is a reserve, so it is not judged."""
    pairs = (
        ("weights", predicted.weights_bytes, measured.weights_bytes, format_bytes),
        ("KV cache", predicted.kv_tokens, measured.kv_tokens, format_tokens),
    )
    for name, expected, found, form in pairs:
        if is_apart(expected, found):
            yield f"{name} {form(expected)} predicted, {form(found)} measured"


def is_apart(predicted: int, measured: int) -> bool:
    """Whether the prediction is wrong by more than the tolerance, of the measured figure: 110 for 100 is not."""
    return abs(predicted - measured) * 100 > TOLERANCE_PERCENT * measured


def format_tokens(count: int) -> str:
    """Tokens as people read them: `775k tokens`."""
    return f"{format_count(count)} tokens"
