"""What the planner predicts of a measured case, from the model's config.json alone, beside what was measured.

A measured case is a record of `planner_measure.py`. Nothing of what the engine said of itself goes into a prediction
but the accelerator's kind and memory; `planner.py` prints the differences, `planner_fit.py` makes them small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner_case import DATA, PIPELINE

from plinth.domain.accelerators.catalogue import find_accelerator
from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.reading import read_model
from plinth.domain.quantities import GIB, MIB
from plinth.domain.sizing.calibration import CALIBRATION, Calibration
from plinth.domain.sizing.memory import MemoryPlan, plan_memory
from plinth.domain.sizing.performance import Prediction, predict
from plinth.domain.sizing.request import EngineOptions, Load, Place, SizingRequest
from plinth.domain.sizing.shape import Shape

MEASURED = Path(__file__).parent / "results" / "planner_measured"
CALIBRATION_USE = "calibration"


@dataclass(frozen=True, kw_only=True)
class Level:
    """One closed loop and how it went."""

    users: int
    requests: int
    input_tokens: int
    output_tokens: int
    figures: Mapping[str, float]
    """Tokens a second, and milliseconds: the names of `FIGURES`."""
    is_disturbed: bool = False
    """Whether another engine started meanwhile: it compiles on all of the host's cores, and the host's part of every
    step and request takes longer."""

    @property
    def load(self) -> tuple[int, int, int]:
        """What tells loads apart."""
        return self.users, self.input_tokens, self.output_tokens


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One engine that ran."""

    name: str
    use: str
    model: str
    request: SizingRequest
    """With a load that stands for none: each level brings its own."""
    shape: Shape
    stepping: ModelArchitecture
    """The model whose steps took the measured times: the request's, or what of it ran (see `_ran`)."""
    weights_bytes: int
    """Of the fullest worker."""
    kv_tokens: int
    overhead_bytes: int
    """The engine's share less weights and KV cache."""
    levels: tuple[Level, ...]

    @property
    def is_calibration(self) -> bool:
        """Whether constants may be set by it."""
        return self.use == CALIBRATION_USE


FIGURES = ("tokens_per_second", "ttft_p50_ms", "ttft_p99_ms", "tpot_ms")


def read_measured(folder: Path = MEASURED) -> list[Measured]:
    """Every record in the folder whose engine started, by name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        if "kv_tokens" in record.get("engine", {}):
            found.append(make_measured(record))
    return found


def make_measured(record: Mapping[str, Any]) -> Measured:
    """One record of `planner_measure.py`.

    Raises:
        ValueError: the planner cannot read the model or does not know the accelerator.
    """
    case, engine = record["case"], record["engine"]
    model = read_model(case["config"], format=ModelFormat.SAFETENSORS)
    if isinstance(model, ArtifactRefusal):
        raise ValueError(f"{case['name']}: {model.message}")  # noqa: TRY004 - a refusal is a value, not a wrong type
    machine = record["machine"]["accelerators"][0]
    accelerator = find_accelerator(machine["name"], int(machine["memory.total"]) * MIB)
    if accelerator is None:
        raise ValueError(f"{case['name']}: {machine['name']} is not in the catalogue")
    place = Place(
        accelerator=accelerator,
        accelerators_per_node=_shape(case).accelerators,
        memory_bytes=int(machine["memory.total"]) * MIB,
        utilization_percent=case["utilization_percent"],
    )
    weights = round(max(engine["weights_gib"]) * GIB)
    return Measured(
        name=case["name"],
        use=case["use"],
        model=case["model"],
        request=SizingRequest(
            model=model,
            place=place,
            load=Load(concurrency=1, input_tokens=1, output_tokens=1, context_tokens=case["context_tokens"]),
            options=_options(case["args"]),
        ),
        shape=_shape(case),
        stepping=_ran(model, record),
        weights_bytes=weights,
        kv_tokens=round(_kv_tokens(case, engine["kv_tokens"])),
        overhead_bytes=place.engine_bytes - weights - round(min(engine["kv_gib"]) * GIB),
        levels=tuple(_level(each) for each in record["loads"]),
    )


def _kv_tokens(case: Mapping[str, Any], told: Sequence[float]) -> float:
    """Of all copies; each tells its own."""
    return sum(told[-_shape(case).data :])


def _ran(model: ModelArchitecture, record: Mapping[str, Any]) -> ModelArchitecture:
    """The model without experts that no token met.

    Where experts are chosen in groups, vLLM takes the router's softmax at the model's 16 bits (fused_moe/router/
    grouped_topk_router.py). Made-up weights of at most 0.001 give scores that differ by millionths, which 16 bits
    cannot tell apart: every token meets the same experts, the first ones. Unless routing was simulated.
    """
    case = record["case"]
    softmax = case["config"].get("scoring_func", "softmax") == "softmax"
    grouped = softmax and case["config"].get("topk_group")
    made_up = case["args"].get("load-format") == "dummy"
    simulated = case["environment"].get("VLLM_MOE_ROUTING_SIMULATION_STRATEGY")
    if not grouped or not made_up or simulated:
        return model
    layers = tuple(
        replace(each, feed_forward=replace(each.feed_forward, experts=each.feed_forward.experts_per_token))
        for each in model.layers
    )
    return replace(model, layers=layers)


def _options(args: Mapping[str, str]) -> EngineOptions:
    return EngineOptions(
        batched_tokens=int(args["max-num-batched-tokens"]) if "max-num-batched-tokens" in args else None,
        sequences=int(args["max-num-seqs"]) if "max-num-seqs" in args else None,
        kv_element_bytes=1 if args.get("kv-cache-dtype", "auto").startswith("fp8") else 2,
        graphs=args.get("enforce-eager") != "true",
        front_ends=int(args.get(DATA, 1)),  # `vllm serve` starts one for each copy
    )


def _shape(case: Mapping[str, Any]) -> Shape:
    args, tensor = case["args"], int(case["tensor"])
    copies = int(args.get(DATA, 1))
    spread = args.get("enable-expert-parallel") == "true"
    return Shape(
        tensor=tensor,
        pipeline=int(args.get(PIPELINE, 1)),
        expert=tensor * copies if spread else 1,
        data=copies,
    )


def _level(figures: Mapping[str, Any]) -> Level:
    return Level(
        users=figures["users"],
        requests=figures["requests"],
        input_tokens=figures["input_tokens"],
        output_tokens=figures["output_tokens"],
        figures={
            "tokens_per_second": figures["output_tokens_per_second"],
            "ttft_p50_ms": figures["ttft_ms"]["p50"],
            "ttft_p99_ms": figures["ttft_ms"]["p99"],
            "tpot_ms": figures["tpot_ms"]["p50"],
        },
        is_disturbed=any(neighbour.endswith(": starting") for neighbour in figures.get("beside", ())),
    )


def predict_memory(case: Measured, calibration: Calibration = CALIBRATION) -> MemoryPlan:
    """What the engine should take and hold."""
    return plan_memory(case.request, case.shape, calibration)


def predict_level(case: Measured, level: Level, calibration: Calibration = CALIBRATION) -> dict[str, float]:
    """What the load should see, by the names of `FIGURES`."""
    load = replace(
        case.request.load,
        concurrency=level.users,
        input_tokens=level.input_tokens,
        output_tokens=level.output_tokens,
    )
    request = replace(case.request, load=load)
    memory = plan_memory(request, case.shape, calibration)
    request = replace(request, model=case.stepping)
    return figures_of(predict(request, case.shape, memory, requests=level.requests, calibration=calibration))


def figures_of(predicted: Prediction) -> dict[str, float]:
    """A prediction by the names of `FIGURES`."""
    return {
        "tokens_per_second": predicted.tokens_per_second,
        "ttft_p50_ms": predicted.ttft_p50_milliseconds,
        "ttft_p99_ms": predicted.ttft_p99_milliseconds,
        "tpot_ms": predicted.tpot_microseconds / 1000,
    }


def error_percent(predicted: float, measured: float) -> float:
    """How far a prediction is off, without a sign.

    >>> error_percent(110, 100), error_percent(90, 100)
    (10.0, 10.0)
    """
    return round(abs(predicted - measured) * 100 / measured, 2)


def memory_errors(case: Measured, calibration: Calibration = CALIBRATION) -> dict[str, float]:
    """In percent: weights of an accelerator, and tokens of KV cache."""
    plan = predict_memory(case, calibration)
    return {
        "weights": error_percent(plan.weights_bytes, case.weights_bytes),
        "kv_tokens": error_percent(plan.kv_tokens, case.kv_tokens),
    }


def level_errors(
    cases: Sequence[Measured], figure: str, calibration: Calibration = CALIBRATION
) -> Iterator[tuple[Measured, Level, float]]:
    """Every level of every case with the error of one figure."""
    for case in cases:
        for level in case.levels:
            predicted = predict_level(case, level, calibration)[figure]
            yield case, level, error_percent(predicted, level.figures[figure])
