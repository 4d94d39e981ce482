"""What it would cost to give a prompt to a replica, in seconds: the smaller, the better. Pure.

Of one replica: strategies differ in nothing but the score.
"""

from __future__ import annotations

from typing import Final

from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.pace import IN_FLIGHT_SECONDS
from plinth.gateway.routing.placement import Prompt

OTHERS: Final = 1.0
"""How much the wait that a prompt causes counts against its own. Reading it occupies the replica for uncached /
rate seconds, in which whoever comes next waits; under load somebody does. On the Mooncake synthetic trace, at 1.5
to 3 times its speed and with half to twice the cache, 1 beat 0 everywhere (by 0.2 to 30 points of TTFT below 2 s)
and stood within 0.5 of the best weight wherever the goal is within reach."""
KV_SECONDS: Final = 0.15
"""Weight of the barrier before a full KV cache, k / (1 - k), as SMG has it: 0.15 s at half, 1.35 s at 90%."""
_FULLEST: Final = 0.95


def kv_barrier(standing: Standing) -> float:
    """Seconds that a fuller KV cache counts for, `Standing.kv_seconds`; 0 where its size is not known.

    Requests of other workers are supposed to fill it as this worker's do.
    """
    if not standing.kv_tokens or not standing.in_flight:
        return 0.0
    kept = standing.kept_tokens * (1 + standing.in_flight_elsewhere / standing.in_flight)
    use = min(kept / standing.kv_tokens, _FULLEST)
    return KV_SECONDS * use / (1 - use)


def expected_ttft(standing: Standing, uncached: int) -> float:
    """Expected seconds to the first token, and those that the prompt makes others wait.

    (P + u) / r + u / r + a * n + barrier: P the uncached tokens outstanding, u the prompt's own, r the replica's
    learnt rate, n the requests there, a what each of them adds.
    """
    tokens = standing.pending_tokens + standing.pending_tokens_elsewhere + (1 + OTHERS) * uncached
    return tokens / standing.pace.rate + _beside(standing)


def predicted_latency(standing: Standing, prompt: Prompt, uncached: int) -> float:
    """Expected seconds to the last token. The past latency itself herds: all go where it was low a moment ago."""
    return expected_ttft(standing, uncached) + prompt.output_tokens * standing.pace.tpot


def least_load(standing: Standing, prompt: Prompt) -> float:
    """Outstanding work by the replica's rate, whatever its cache holds (SMG's `least_load`)."""
    tokens = standing.pending_tokens + standing.pending_tokens_elsewhere + prompt.tokens
    return tokens / standing.pace.rate + _beside(standing)


def _beside(standing: Standing) -> float:
    """Seconds that the requests at the replica and its fuller KV cache add."""
    return IN_FLIGHT_SECONDS * (standing.in_flight + standing.in_flight_elsewhere) + standing.kv_seconds
