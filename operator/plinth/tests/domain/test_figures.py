import pytest

from plinth.domain.figures import (
    Correction,
    MemoryFigures,
    Prediction,
    SpeedFigures,
    is_apart,
    partings,
)
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import make_memory_figures

COMPUTED = SpeedFigures(
    concurrency=40,
    ttft_p50_milliseconds=700,
    ttft_p99_milliseconds=1100,
    tpot_microseconds=16_000,
    tokens_per_second=2400,
    cost_per_million_tokens="0.85",
)


@pytest.mark.parametrize(
    ("predicted", "measured", "apart"),
    [(110, 100, False), (111, 100, True), (90, 100, False), (89, 100, True), (0, 0, False), (1, 0, True)],
)
def test_a_prediction_is_apart_from_a_tenth_of_the_measured_figure_on(
    predicted: int,
    measured: int,
    apart: bool,  # noqa: FBT001 - what is expected
) -> None:
    assert is_apart(predicted, measured) is apart


def test_each_figure_that_parts_is_named_with_both_values() -> None:
    predicted = MemoryFigures(weights_bytes=30 * GIB, kv_bytes=90 * GIB, kv_tokens=775_216)
    measured = make_memory_figures(weights_bytes=20 * GIB, kv_bytes=80 * GIB, kv_tokens=690_000)
    assert list(partings(predicted, measured)) == [
        "weights 30.0 GiB predicted, 20.0 GiB measured",
        "KV cache 775k tokens predicted, 690k tokens measured",
    ]


def test_overhead_is_a_reserve_and_never_parts() -> None:
    predicted = make_memory_figures(overhead_bytes=2 * GIB)
    assert list(partings(predicted, make_memory_figures(overhead_bytes=GIB))) == []


def test_a_correction_moves_rate_and_cost_and_leaves_the_first_token() -> None:
    slower = Prediction(
        memory=make_memory_figures(),
        computed=COMPUTED,
        correction=Correction(thousandths=850, stretches=6),
    ).speed
    assert slower is not None
    assert (slower.tokens_per_second, slower.tpot_microseconds) == (2040, 18_823)
    assert (slower.cost_per_million_tokens, slower.ttft_p99_milliseconds) == ("1", 1100)


def test_uncorrected_speed_is_as_computed() -> None:
    assert Prediction(memory=make_memory_figures(), computed=COMPUTED).speed is COMPUTED
    assert Prediction(memory=make_memory_figures(), correction=Correction(thousandths=850)).speed is None
