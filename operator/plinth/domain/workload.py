"""What a spec asks of one replica, in the words of sizing: load, goals, degrees by hand, the engine's options.

And the model as the engine loads it, which is not always as it is stored.
"""

from __future__ import annotations

from dataclasses import replace

from plinth.api.v1alpha1 import ModelDeploymentSpec, Objectives, Parallelism, Task
from plinth.domain.fleet import Artifact, ArtifactRefusal, Engine, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.sizing.request import (
    FULL_SPEED_PERMILLE,
    Asked,
    EngineOptions,
    Goals,
    Load,
    Place,
    SizingRequest,
)
from plinth.domain.vllm_arguments import read_adapter_room, read_options


def make_sizing_request(
    spec: ModelDeploymentSpec,
    model: ModelArchitecture,
    place: Place,
    *,
    engine: Engine,
    context_tokens: int,
    speed_permille: int = FULL_SPEED_PERMILLE,
) -> SizingRequest:
    """The question to sizing; `context_tokens` is what is planned for, see `targets`."""
    return SizingRequest(
        model=model,
        place=place,
        load=_load_of(spec.objectives, context_tokens),
        goals=Goals(
            ttft_milliseconds=spec.objectives.ttft_milliseconds,
            tpot_milliseconds=spec.objectives.tpot_milliseconds,
            percentile=spec.objectives.percentile,
        ),
        asked=asked_of(spec.parallelism),
        engine=engine,
        options=_options_of(spec, engine, model),
        speed_permille=speed_permille,
    )


def as_loaded(
    model: ModelArchitecture, model_format: ModelFormat, task: Task, engine: Engine
) -> ModelArchitecture:
    """The model in the engine's memory.

    vLLM gets GGUF weights converted to 16 bits. What a user says of the task counts more than what the config looks
    like; `Generate` says nothing, for it is what stands there unsaid.
    """
    if model_format is ModelFormat.GGUF and engine is Engine.VLLM:
        model = replace(model, quantization=None)
    if task in {Task.GENERATE, model.task}:
        return model
    return replace(model, task=task)


def file_bytes_of(artifact: Artifact | ArtifactRefusal | None, engine: Engine) -> int:
    """Bytes of the weights in the files that the engine opens; 0 where they are converted first."""
    if not isinstance(artifact, Artifact):
        return 0
    converted = artifact.format is ModelFormat.GGUF and engine is Engine.VLLM
    return 0 if converted else artifact.weights_bytes


def _load_of(objectives: Objectives, context_tokens: int) -> Load:
    """What one replica must hold; requests are cut to the context where the model has less than was asked."""
    tokens_in = min(objectives.input_tokens, context_tokens - 1)
    return Load(
        concurrency=objectives.concurrency,
        input_tokens=tokens_in,
        output_tokens=min(objectives.output_tokens, context_tokens - tokens_in),
        context_tokens=context_tokens,
    )


def asked_of(parallelism: Parallelism | None) -> Asked:
    """The degrees set by hand."""
    if parallelism is None:
        return Asked()
    return Asked(
        tensor=parallelism.tensor,
        pipeline=parallelism.pipeline,
        expert=parallelism.expert,
        data=parallelism.data,
    )


def _options_of(spec: ModelDeploymentSpec, engine: Engine, model: ModelArchitecture) -> EngineOptions:
    """What the user's arguments change of the engine's memory and speed."""
    if engine is not Engine.VLLM:
        return EngineOptions()
    options = read_options(
        spec.engine.args, concurrency=spec.objectives.concurrency, dtype_bytes=model.dtype_bytes
    )
    ranks = [each.rank for each in spec.adapters]
    return replace(options, adapters=read_adapter_room(spec.engine.args, ranks))
