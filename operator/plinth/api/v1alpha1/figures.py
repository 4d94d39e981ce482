"""What a status says of one replica in figures: what the plan predicts, beside what was measured."""

from __future__ import annotations

from pydantic import Field

from plinth.api.v1alpha1.meta import DecimalString, Int, Observed


class Figures(Observed):
    """One replica: memory of its fullest accelerator, or of the whole on a CPU node; and its throughput."""

    weights_bytes: Int | None = None
    """The model's weights, on accelerators with the room for its LoRA adapters; absent while unknown, as are the figures
    below."""
    kv_bytes: Int | None = None
    """The KV cache, as it is allocated."""
    kv_tokens: Int | None = None
    """Tokens that the KV cache of the whole replica holds; 0 for a model that keeps none."""
    overhead_bytes: Int | None = None
    """All else: activations, CUDA graphs, communication buffers, libraries."""
    tokens_per_second: Int | None = None
    """Output tokens of all its requests together."""
    concurrency: Int | None = None
    """Requests on the replica at once that this throughput holds for."""


class Predicted(Figures):
    """What the plan expects of one replica, at the stated concurrency and workload."""

    ttft_p50_milliseconds: Int | None = None
    """Time to first token that half of the requests stay under."""
    ttft_p99_milliseconds: Int | None = None
    """Time to first token that 99% of the requests stay under."""
    tpot_microseconds: Int | None = None
    """Time per output token after the first."""
    cost_per_million_tokens: DecimalString | None = None
    """Money for a million output tokens, in the pool's currency."""
    throughput_percent: Int = Field(default=100, ge=0)
    """What is planned by, of the throughput that was computed; not 100 where measured throughput has corrected it."""


class Measured(Figures):
    """What a replica told of itself, and the highest throughput that one delivered lately."""

    graph_bytes: Int | None = None
    """What vLLM set aside for CUDA graphs; part of the overhead."""
    start_milliseconds: Int | None = None
    """From the model's files at hand to the first answer."""
