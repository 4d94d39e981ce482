"""Against Qwen2.5-32B's shape on H200, 512 tokens in and 256 out: `e2e/benchmarks/results/gpu_stack_measurements.jsonl`."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import Task
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.quantization import Quantization
from plinth.domain.sizing.calibration import CALIBRATION
from plinth.domain.sizing.memory import plan_memory
from plinth.domain.sizing.performance import Prediction, most_tokens_per_second, predict
from plinth.domain.sizing.request import SizingRequest
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.steps import Batch, StepClock
from plinth.domain.sizing.work import step_work
from plinth.tests.domain.sizing.sizing_builders import QWEN_7B, QWEN_30B_A3B, QWEN_32B, ask


def predicted(request: SizingRequest, shape: Shape, requests: int = 0) -> Prediction:
    return predict(request, shape, plan_memory(request, shape), requests=requests)


@pytest.mark.parametrize(
    ("tensor", "users", "requests", "tokens_per_second", "ttft_p99", "tpot"),
    [
        (1, 1, 4, 54.3, 57, 18_250),
        (1, 40, 80, 1428, 2035, 21_600),
        (1, 256, 384, 2660, 13_040, 75_500),
        (2, 1, 6, 90.7, 38, 10_920),
        (2, 40, 120, 2384, 1170, 13_350),
        (2, 256, 512, 4860, 7400, 44_500),
    ],
)
def test_predictions_are_near_what_was_measured(  # noqa: PLR0917 - a row of the table
    tensor: int, users: int, requests: int, tokens_per_second: float, ttft_p99: int, tpot: int
) -> None:
    found = predicted(ask(users=users, percent=92, context=1024), Shape(tensor=tensor), requests)
    assert found.tokens_per_second == pytest.approx(tokens_per_second, rel=0.08)
    assert found.ttft_p99_milliseconds == pytest.approx(ttft_p99, rel=0.15)
    assert found.tpot_microseconds == pytest.approx(tpot, rel=0.06)


def test_two_ranks_are_faster_than_one_but_not_twice() -> None:
    one, two = (predicted(ask(users=8), Shape(tensor=each)) for each in (1, 2))
    assert one.tokens_per_second < two.tokens_per_second < 2 * one.tokens_per_second
    assert two.ttft_p99_milliseconds < one.ttft_p99_milliseconds


def test_stages_serve_many_users_at_once_but_no_user_sooner() -> None:
    one, two = (predicted(ask(users=1), Shape(pipeline=each)) for each in (1, 2))
    assert two.tpot_microseconds >= one.tpot_microseconds
    one, two = (predicted(ask(users=200), Shape(pipeline=each)) for each in (1, 2))
    assert two.tokens_per_second > 1.3 * one.tokens_per_second


def test_a_slow_link_makes_splitting_dear() -> None:
    fast, slow = (
        predicted(ask(QWEN_7B, gpu=gpu, context=2048, users=40), Shape(tensor=4))
        for gpu in ("H100-80GB", "H100-PCIe")
    )
    assert slow.ttft_p99_milliseconds > 1.5 * fast.ttft_p99_milliseconds


def test_few_tokens_meet_few_experts() -> None:
    """One token reads 8 of 128 experts: far less than the dense model with as many weights."""
    experts, dense = (predicted(ask(each, users=1), Shape()) for each in (QWEN_30B_A3B, QWEN_32B))
    assert experts.tpot_microseconds < dense.tpot_microseconds / 3
    many = predicted(ask(QWEN_30B_A3B, users=64), Shape())
    assert many.tpot_microseconds > 2 * experts.tpot_microseconds


def test_four_bits_quicken_decoding_and_not_reading() -> None:
    packed = replace(
        QWEN_32B, quantization=Quantization(method="gptq", weight_bits_hundredths=416, group_size=128)
    )
    four, full = (predicted(ask(each, users=1), Shape()) for each in (packed, QWEN_32B))
    assert four.tpot_microseconds < 0.65 * full.tpot_microseconds
    four, full = (predicted(ask(each, users=40), Shape()) for each in (packed, QWEN_32B))
    assert four.ttft_p99_milliseconds == pytest.approx(full.ttft_p99_milliseconds, rel=0.1)


def test_eight_bits_quicken_both_where_the_hardware_has_them() -> None:
    eight = replace(QWEN_32B, quantization=Quantization(method="fp8", weight_bits_hundredths=800))
    narrow, full = (predicted(ask(each, users=40), Shape()) for each in (eight, QWEN_32B))
    assert narrow.ttft_p99_milliseconds < 0.7 * full.ttft_p99_milliseconds
    assert narrow.tpot_microseconds < full.tpot_microseconds


def test_eight_bits_are_unpacked_where_the_hardware_cannot_multiply_them() -> None:
    eight = replace(QWEN_7B, quantization=Quantization(method="fp8", weight_bits_hundredths=800))
    narrow, full = (predicted(ask(each, gpu="A100-80GB", users=40), Shape()) for each in (eight, QWEN_7B))
    assert narrow.ttft_p99_milliseconds == pytest.approx(full.ttft_p99_milliseconds, rel=0.02)
    assert narrow.tpot_microseconds < full.tpot_microseconds


def clock(model: ModelArchitecture) -> StepClock:
    place = ask(model).place
    return StepClock(
        work=step_work(model, Shape(), 2),
        shape=Shape(),
        accelerator=place.accelerator,
        constants=CALIBRATION.speed,
    )


def test_small_steps_with_experts_and_prompts_take_as_long_as_launching_their_kernels() -> None:
    """48 layers, more than 512 tokens: no CUDA graph holds them, and the host is slower than the accelerator."""
    graphed, launched, long = (
        clock(QWEN_30B_A3B).step_microseconds(Batch(decoding=0, remembered=0, prompt=each))
        for each in (512, 600, 8192)
    )
    speed = CALIBRATION.speed
    assert launched == 48 * (speed.launch_layer_microseconds + speed.launch_expert_layer_microseconds)
    assert graphed < launched / 2
    assert long > launched


def test_tokens_of_more_requests_than_a_piece_wait_for_the_front_end() -> None:
    """A small model's step is shorter than handing out 129 tokens; those of 128 are handed out on the way."""
    small = replace(QWEN_7B, layers=(replace(QWEN_7B.layers[0], count=2),))
    few, many = (clock(small).step_microseconds(Batch(decoding=each, remembered=0)) for each in (128, 129))
    speed = CALIBRATION.speed
    assert many == 129 * speed.host_request_microseconds
    assert few == speed.core_step_microseconds + 128 * speed.core_request_microseconds < many


def test_narrowing_inputs_takes_time_of_its_own_where_the_hardware_multiplies_eight_bits() -> None:
    eight = replace(QWEN_32B, quantization=Quantization(method="fp8", weight_bits_hundredths=800))
    plain, narrow = (clock(each)._fixed for each in (QWEN_32B, eight))
    assert narrow - plain == pytest.approx(64 * CALIBRATION.speed.narrow_layer_microseconds)


def test_an_embedding_model_counts_the_tokens_it_reads() -> None:
    model = replace(QWEN_7B, task=Task.EMBED)
    found = predicted(ask(model, users=8), Shape())
    assert found.tpot_microseconds == 0
    assert found.tokens_per_second > 5000


def test_a_model_seen_to_be_slower_than_predicted_is_expected_to_stay_so() -> None:
    request = ask(users=8)
    plain, slower = (predicted(each, Shape()) for each in (request, replace(request, speed_permille=800)))
    assert slower.tokens_per_second == pytest.approx(0.8 * plain.tokens_per_second, rel=0.01)
    assert slower.tpot_microseconds == pytest.approx(1.25 * plain.tpot_microseconds, rel=0.01)


def test_cost_is_that_of_all_accelerators_for_a_million_tokens() -> None:
    found = predicted(ask(users=40), Shape(tensor=2))
    expected = 2 * 3.9 * 1_000_000 / (found.tokens_per_second * 3600)
    assert float(found.cost_per_million_tokens) == pytest.approx(expected, abs=0.0001)


@given(
    users=st.sampled_from([1, 3, 8, 40, 128]),
    tokens_in=st.sampled_from([1, 100, 512, 9000]),
    tokens_out=st.sampled_from([1, 2, 64]),
    model=st.sampled_from([QWEN_7B, QWEN_30B_A3B]),
)
def test_nothing_is_faster_than_reading_the_weights_allows(
    users: int, tokens_in: int, tokens_out: int, model: ModelArchitecture
) -> None:
    found = predicted(
        ask(model, users=users, tokens_in=tokens_in, tokens_out=tokens_out, context=16384), Shape()
    )
    assert 0 < found.ttft_p50_milliseconds <= found.ttft_p99_milliseconds
    assert found.ttft_p50_milliseconds <= found.ttft_milliseconds <= found.ttft_p99_milliseconds
    if tokens_out > 1:
        least = 2 * model.active_parameters / 4.8e12 * 1e6
        assert found.tpot_microseconds > 0.9 * least
        assert found.tokens_per_second <= users * 1e6 / least


@pytest.mark.parametrize("users", [1, 7, 40, 200])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (QWEN_7B, Shape()),
        (QWEN_32B, Shape(tensor=2)),
        (QWEN_32B, Shape(pipeline=2)),
        (QWEN_32B, Shape(tensor=2, pipeline=3)),
        (QWEN_30B_A3B, Shape(data=2, expert=2)),
    ],
    ids=str,
)
def test_no_load_that_is_played_exceeds_what_decoding_alone_would_allow(
    model: ModelArchitecture, shape: Shape, users: int
) -> None:
    request = replace(ask(model, users=users), speed_permille=900)
    most = most_tokens_per_second(request, shape)
    assert most is not None
    assert predicted(request, shape).tokens_per_second <= most


def test_a_model_that_generates_nothing_has_no_such_bound() -> None:
    assert most_tokens_per_second(ask(replace(QWEN_7B, task=Task.EMBED)), Shape()) is None
