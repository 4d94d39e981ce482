"""Whether a finished request met the model's objectives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from plinth.domain.traffic import ObjectiveRoute


@dataclass(frozen=True)
class Outcome:
    """What was measured of one streamed request. Seconds; tokens from `usage`, else estimated."""

    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float
    tpot_seconds: float | None
    """None for fewer than two tokens: there is no time between them."""


@dataclass
class ObjectiveCounts:
    """Requests within the stated workload that met or missed each threshold. Only grows."""

    ttft_met: int = 0
    ttft_missed: int = 0
    tpot_met: int = 0
    tpot_missed: int = 0

    def count(self, objectives: ObjectiveRoute, outcome: Outcome) -> None:
        """Adds one request, unless it is larger than the workload that the objectives hold for."""
        if (
            outcome.prompt_tokens > objectives.input_tokens
            or outcome.output_tokens > objectives.output_tokens
        ):
            return
        if objectives.ttft_milliseconds is not None:
            if outcome.ttft_seconds * 1000 <= objectives.ttft_milliseconds:
                self.ttft_met += 1
            else:
                self.ttft_missed += 1
        if objectives.tpot_milliseconds is not None and outcome.tpot_seconds is not None:
            if outcome.tpot_seconds * 1000 <= objectives.tpot_milliseconds:
                self.tpot_met += 1
            else:
                self.tpot_missed += 1


def time_per_output_token(first: float, last: float, output_tokens: int) -> float | None:
    """Seconds between tokens after the first: (last - first) / (tokens - 1)."""
    return (last - first) / (output_tokens - 1) if output_tokens > 1 else None
