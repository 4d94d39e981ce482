"""What a status says of a model's replicas in figures: a `Prediction` and what the slots told, as the API's fields."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from plinth.api.v1alpha1.figures import Measured, Predicted
from plinth.domain.corrections import SpeedStretch
from plinth.domain.figures import EngineFigures, Prediction
from plinth.domain.fleet import Slot, SlotPhase

SIGNIFICANT_DIGITS = 2
REMEMBERED = 8192
"""Of a fleet's figures hardly any change from one pass to the next: they are not made of the same values again."""


@lru_cache(REMEMBERED)
def predicted_figures(prediction: Prediction | None) -> Predicted | None:
    """What the plan expects of one replica, throughput as it is planned by."""
    if prediction is None:
        return None
    memory, speed = prediction.memory, prediction.speed
    return Predicted(
        weights_bytes=memory.weights_bytes,
        kv_bytes=memory.kv_bytes,
        kv_tokens=memory.kv_tokens,
        overhead_bytes=memory.overhead_bytes,
        tokens_per_second=speed.tokens_per_second if speed else None,
        concurrency=speed.concurrency if speed else None,
        ttft_p50_milliseconds=speed.ttft_p50_milliseconds if speed else None,
        ttft_p99_milliseconds=speed.ttft_p99_milliseconds if speed else None,
        tpot_microseconds=speed.tpot_microseconds if speed else None,
        cost_per_million_tokens=speed.cost_per_million_tokens if speed else None,
        throughput_percent=prediction.correction.thousandths // 10,
    )


def measured_figures(
    revision: str, slots: Iterable[Slot], stretches: Iterable[SpeedStretch]
) -> Measured | None:
    """What the newest replica of a revision told, and the fastest stretch of load that one had; None without either."""
    told = [
        slot
        for slot in slots
        if slot.name.revision == revision and slot.phase is SlotPhase.READY and slot.figures is not None
    ]
    newest = max(told, key=lambda slot: slot.name, default=None)
    delivered = [each for each in stretches if each.revision == revision]
    fastest = max(delivered, key=lambda each: each.tokens_per_second, default=None)
    if newest is None and fastest is None:
        return None
    return _measured(
        newest.figures if newest else None,
        newest.start_milliseconds if newest else None,
        tokens_per_second=_rounded(fastest.tokens_per_second) if fastest else None,
        concurrency=fastest.in_flight if fastest else None,
    )


@lru_cache(REMEMBERED)
def _measured(
    figures: EngineFigures | None,
    start_milliseconds: int | None,
    *,
    tokens_per_second: int | None,
    concurrency: int | None,
) -> Measured:
    memory = figures.memory if figures else None
    return Measured(
        weights_bytes=memory.weights_bytes if memory else None,
        kv_bytes=memory.kv_bytes if memory else None,
        kv_tokens=memory.kv_tokens if memory else None,
        overhead_bytes=memory.overhead_bytes if memory else None,
        graph_bytes=figures.graph_bytes if figures else None,
        start_milliseconds=start_milliseconds,
        tokens_per_second=tokens_per_second,
        concurrency=concurrency,
    )


def _rounded(rate: int) -> int:
    """To two digits, so that steady load writes no new status with every report: 2397 is 2400."""
    return round(rate, SIGNIFICANT_DIGITS - len(str(rate)))
