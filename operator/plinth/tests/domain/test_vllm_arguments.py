"""Engine arguments that sizing counts with; the fits are asked through the planner's own question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from plinth.api.v1alpha1 import Reason
from plinth.domain.figures import MemoryFigures
from plinth.domain.fleet import Artifact, ModelFormat
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.weights import Part
from plinth.domain.quantities import GIB, MIB
from plinth.domain.sizing.request import EngineOptions
from plinth.domain.targets import Refusal, Target
from plinth.domain.vllm_arguments import as_asked, read_options, refuse_arguments, refuse_dtype_on, refuse_for
from plinth.tests.domain.builders import QWEN_32B_CONFIG, make_node, make_qwen_artifact, make_smol_artifact
from plinth.tests.domain.fits import choose_on, refusal_of, target_of
from plinth.tests.domain.sizing.sizing_builders import QWEN_30B_A3B, QWEN_32B, known

GPTQ = replace(QWEN_32B, quantization=Quantization(method="gptq", weight_bits_hundredths=416, group_size=128))


def options(concurrency: int = 8, dtype_bytes: int = 2, **args: str) -> EngineOptions:
    named = {name.replace("_", "-"): text for name, text in args.items()}
    return read_options(named, concurrency=concurrency, dtype_bytes=dtype_bytes)


def test_without_arguments_options_are_those_of_the_engine() -> None:
    assert options() == EngineOptions()
    assert options(concurrency=300).sequences == 300


@pytest.mark.parametrize(
    ("text", "tokens"), [("4096", 4096), ("8k", 8000), ("8K", 8192), ("2.5k", 2500), (" 1M ", 1 << 20)]
)
def test_tokens_of_a_step_are_read_as_vllm_reads_them(text: str, tokens: int) -> None:
    assert options(max_num_batched_tokens=text).batched_tokens == tokens


@pytest.mark.parametrize("text", ["many", "0", "-1", "2.5K", "0k", "", "1e3", "4096.0", "8kk"])
def test_a_number_of_tokens_that_vllm_does_not_take_is_refused(text: str) -> None:
    message = refuse_arguments({"max-num-batched-tokens": text})
    assert message == (
        f"spec.engine.args.max-num-batched-tokens: must be a number above 0, got {text!r}; write one such as 8192 or 8k"
    )


def test_requests_in_a_step_are_a_plain_number_and_each_gets_a_token() -> None:
    assert options(max_num_seqs="64").sequences == 64
    assert refuse_arguments({"max-num-seqs": "8k"}) is not None
    message = refuse_arguments({"max-num-seqs": "512", "max-num-batched-tokens": "256"})
    assert message == (
        "spec.engine.args.max-num-seqs: 512 requests get a token each in a step, and max-num-batched-tokens lets it"
        " have 256; raise that, or lower this"
    )


@pytest.mark.parametrize(
    ("text", "size"), [("auto", 2), ("float16", 2), ("bfloat16", 2), ("fp8", 1), ("fp8_e5m2", 1)]
)
def test_the_cache_is_as_wide_as_it_is_asked_to_be(text: str, size: int) -> None:
    assert options(kv_cache_dtype=text).kv_element_bytes == size
    assert refuse_arguments({"kv-cache-dtype": text}) is None


def test_a_cache_that_nobody_asked_about_is_as_wide_as_the_model() -> None:
    assert options(dtype_bytes=4).kv_element_bytes == 4
    assert options(dtype_bytes=4, kv_cache_dtype="fp8").kv_element_bytes == 1


@pytest.mark.parametrize("text", ["int4", "turboquant_k8v4", "FP8"])
def test_a_cache_that_cannot_be_counted_is_refused_with_those_that_can(text: str) -> None:
    assert refuse_arguments({"kv-cache-dtype": text}) == (
        f"spec.engine.args.kv-cache-dtype: {text!r} cannot be planned with; auto, float16, bfloat16, fp8, fp8_e4m3"
        " or fp8_e5m2 can"
    )


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("no-enforce-eager", 'set enforce-eager to "false"'),
        ("no-fully-sharded-loras", 'set fully-sharded-loras to "false"'),
        ("no-enable-expert-parallel", "set spec.parallelism.expert"),
    ],
)
def test_a_switch_has_one_name(name: str, remedy: str) -> None:
    assert refuse_arguments({name: "true"}) == f"spec.engine.args.{name}: must be left out; {remedy}"


def test_graphs_are_counted_unless_they_are_switched_off() -> None:
    assert options(enforce_eager="false").graphs
    assert not options(enforce_eager="true").graphs


@pytest.mark.parametrize(
    ("method", "bits"),
    [("fp8", 8.0), ("fp8_per_block", 8.0), ("mxfp8", 8.25), ("bitsandbytes", 4.13)],
)
def test_weights_are_quantised_while_they_are_loaded_but_embedding_and_head(method: str, bits: float) -> None:
    made = as_asked(QWEN_32B, {"quantization": method})
    outside = 2 * QWEN_32B.vocabulary * QWEN_32B.hidden * 2
    inside = (QWEN_32B.weights_bytes - outside) * bits / 16
    assert made.weights_bytes == pytest.approx(inside + outside, rel=0.002)
    assert refuse_for(QWEN_32B, {"quantization": method}) is None


def test_some_methods_quantise_experts_only() -> None:
    made = as_asked(QWEN_30B_A3B, {"quantization": "experts_int8"})
    assert made.quantization is not None
    assert Part.EXPERTS not in made.quantization.kept_in_full
    assert Part.ATTENTION in made.quantization.kept_in_full
    assert 0.5 < made.weights_bytes / QWEN_30B_A3B.weights_bytes < 0.56
    assert refuse_for(QWEN_32B, {"quantization": "experts_int8"}) == (
        "spec.engine.args.quantization: experts_int8 is for experts, and the model has none; fp8 is for all weights"
    )


def test_what_is_stored_quantised_stays_so_and_another_method_is_refused() -> None:
    assert as_asked(GPTQ, {"quantization": "gptq_marlin"}) == GPTQ
    assert refuse_for(GPTQ, {"quantization": "gptq_marlin"}) is None
    assert refuse_for(GPTQ, {"quantization": "fp8"}) == (
        "spec.engine.args.quantization: the model's weights are stored as gptq and not as fp8; leave it out"
    )


def test_a_method_of_checkpoints_is_refused_for_full_weights_with_those_that_would_do() -> None:
    assert refuse_for(QWEN_32B, {"quantization": "awq"}) == (
        "spec.engine.args.quantization: the model's weights are not stored as awq; fp8, fp8_per_tensor,"
        " fp8_per_channel, fp8_per_block, mxfp8 or bitsandbytes is made while they are loaded"
    )


def test_full_width_takes_twice_the_memory() -> None:
    wide = as_asked(QWEN_32B, {"dtype": "float32"})
    assert wide.weights_bytes == 2 * QWEN_32B.weights_bytes
    assert as_asked(QWEN_32B, {"dtype": "half"}) is QWEN_32B


def test_a_width_that_the_accelerator_or_the_model_does_not_stand_is_refused() -> None:
    gemma = replace(QWEN_32B, name="gemma2")
    assert refuse_dtype_on(known("T4"), QWEN_32B, {"dtype": "bfloat16"}) == (
        "spec.engine.args.dtype: T4 has no bfloat16; take float16, or another spec.pool"
    )
    assert refuse_dtype_on(known("H200"), gemma, {"dtype": "half"}) == (
        "spec.engine.args.dtype: gemma2 is not stable in float16; take bfloat16 or float32"
    )
    assert refuse_dtype_on(known("T4"), QWEN_32B, {"dtype": "float16"}) is None
    assert refuse_dtype_on(known("H200"), gemma, {}) is None


def test_arguments_reach_the_shape() -> None:
    def accelerators(args: Mapping[str, str]) -> int:
        found = choose_on(
            make_qwen_artifact(),
            make_node(accelerators=8, accelerator="L40S", accelerator_memory_bytes=45 * GIB),
            engine={"args": dict(args)},
            objectives={"concurrency": 4},
        )
        assert not isinstance(found, Refusal), found
        return found.needs.accelerators

    assert accelerators({}) == 2
    assert accelerators({"quantization": "fp8"}) == 1
    assert accelerators({"dtype": "float32"}) == 4


def test_adapters_reach_the_plan_and_the_revision() -> None:
    def target(args: Mapping[str, str], *ranks: int, **spec: Any) -> Target:
        named = [{"name": f"a{at}", "source": "hf://o/a", "rank": rank} for at, rank in enumerate(ranks)]
        node = make_node(accelerators=8)
        found = choose_on(make_qwen_artifact(), node, engine={"args": dict(args)}, adapters=named, **spec)
        assert isinstance(found, Target), found
        return found

    def planned(args: Mapping[str, str], *ranks: int, **spec: Any) -> int:
        prediction = target(args, *ranks, **spec).prediction
        assert prediction is not None
        return prediction.memory.adapter_bytes

    one = planned({}, 16)
    assert one > 0 == planned({})
    assert planned({}, 16, 16) == 2 * one == planned({"max-loras": "2"}, 16)
    assert planned({}, 30, 16) == 4 * one
    split = {"parallelism": {"tensor": 2}}
    assert planned({"fully-sharded-loras": "true"}, 16, **split) < planned({}, 16, **split) < one
    assert target({}, 30, 16).spec.adapter_rank == 32
    assert len({target({}, *ranks).revision for ranks in ((30, 16), (32, 1), (33, 1))}) == 2


def test_vllm_tells_room_for_adapters_as_weights_on_accelerators_only() -> None:
    named = [{"name": "law", "source": "hf://o/law"}]

    def predicted(artifact: Artifact, gpus: int, **spec: object) -> MemoryFigures:
        found = target_of(artifact, gpus=gpus, **spec).prediction
        assert found is not None
        return found.memory

    plain, told = (predicted(make_qwen_artifact(), 8, adapters=each) for each in ([], named))
    assert told.weights_bytes - plain.weights_bytes == told.adapter_bytes > 0
    on_vllm = {"type": "VLLM"}
    plain, told = (predicted(make_smol_artifact(), 0, engine=on_vllm, adapters=each) for each in ([], named))
    assert told.weights_bytes == plain.weights_bytes
    assert told.adapter_bytes > 0


def test_a_replica_on_a_cpu_gets_memory_for_its_adapters() -> None:
    on_vllm = {"type": "VLLM"}
    named = [{"name": f"a{at}", "source": "hf://o/a", "rank": 64} for at in range(8)]
    plain, told = (
        target_of(make_smol_artifact(), engine=on_vllm, adapters=each).spec for each in ([], named)
    )
    assert plain.adapter_bytes == 0
    assert 0 <= told.memory_bytes - plain.memory_bytes - told.adapter_bytes + 64 * MIB <= 128 * MIB
    assert told.adapter_bytes > 64 * MIB


@pytest.mark.parametrize("text", ["0", "many", "8k"])
def test_a_number_of_adapters_that_vllm_does_not_take_is_refused(text: str) -> None:
    message = refuse_arguments({"max-loras": text})
    assert (
        message == f"spec.engine.args.max-loras: must be a number above 0, got {text!r}; write one such as 4"
    )


def test_adapters_of_a_vision_tower_cannot_be_planned_with() -> None:
    message = refuse_arguments({"enable-tower-connector-lora": "true"})
    assert message is not None
    assert message.endswith("leave it out, and adapt the text model alone")
    assert refuse_arguments({"enable-tower-connector-lora": "false"}) is None


def test_what_cannot_be_planned_with_is_refused_as_a_fault_of_the_spec() -> None:
    node = make_node(accelerators=1)
    found = choose_on(make_qwen_artifact(), node, engine={"args": {"kv-cache-dtype": "int4"}})
    assert isinstance(found, Refusal)
    assert found.reason is Reason.INVALID_SPEC
    stored = Artifact(
        format=ModelFormat.SAFETENSORS,
        config={
            **QWEN_32B_CONFIG,
            "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
        },
        weights_bytes=19 * GIB,
    )
    assert refusal_of(stored, node, engine={"args": {"quantization": "fp8"}}).endswith("leave it out")


def test_arguments_of_another_engine_are_not_read() -> None:
    assert target_of(make_smol_artifact(), engine={"args": {"dtype": "int3"}}).spec.args == {"dtype": "int3"}
