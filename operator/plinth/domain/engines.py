"""Which engine runs a model: decided by its format, its source and the pool's hardware, always with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from plinth.api.v1alpha1 import EngineChoice
from plinth.domain.fleet import Engine, ModelFormat
from plinth.domain.pools import Pool

PACKAGE_SCHEME = "package://"


@dataclass(frozen=True, kw_only=True)
class EngineDecision:
    """An engine that can run the model, and why this one."""

    engine: Engine
    reason: str


@dataclass(frozen=True, kw_only=True)
class EngineRefusal:
    """No engine, or not the one asked for; the message names what would work."""

    message: str


def choose_engine(
    *,
    choice: EngineChoice,
    model_format: ModelFormat,
    source: str,
    pool: Pool,
    adapters: bool = False,
) -> EngineDecision | EngineRefusal:
    """The engine asked for if it can work, or the first that can, in the order `preference` gives."""
    obstacles = {
        engine: obstacle(engine, model_format=model_format, source=source, pool=pool, adapters=adapters)
        for engine in preference(model_format)
    }
    able = [engine for engine, why_not in obstacles.items() if why_not is None]
    if choice is not EngineChoice.AUTO:
        asked = Engine(choice.value)
        why_not = obstacles[asked]
        if why_not is None:
            return EngineDecision(engine=asked, reason=f"{asked}: asked for in spec.engine.type")
        remedy = f"{able[0]} would work" if able else f"no engine can run it on pool {pool.name}"
        return EngineRefusal(message=f"spec.engine.type: {why_not}; {remedy}")
    if not able:
        reasons = "; ".join(why_not for why_not in obstacles.values() if why_not)
        return EngineRefusal(message=f"no engine can run this model on pool {pool.name}: {reasons}")
    return EngineDecision(engine=able[0], reason=_reason(able[0], model_format, pool, obstacles))


def preference(model_format: ModelFormat) -> tuple[Engine, ...]:
    """Engines in the order tried: GGUF is llama.cpp's own format, safetensors vLLM's."""
    if model_format is ModelFormat.GGUF:
        return (Engine.LLAMA_CPP, Engine.VLLM)
    return (Engine.VLLM, Engine.LLAMA_CPP)


def obstacle(
    engine: Engine, *, model_format: ModelFormat, source: str, pool: Pool, adapters: bool = False
) -> str | None:
    """Why an engine cannot run a model on a pool, or None when it can."""
    if engine is Engine.LLAMA_CPP and model_format is not ModelFormat.GGUF:
        return f"LlamaCpp reads GGUF only and this model is {model_format}"
    if engine is Engine.LLAMA_CPP and adapters:
        return "LlamaCpp gets no adapters and spec.adapters names some"
    if engine is Engine.LLAMA_CPP and not pool.is_cpu:
        return f"LlamaCpp computes on CPUs and pool {pool.name} has {pool.accelerator}"
    if engine is Engine.VLLM and model_format is ModelFormat.GGUF and not source.startswith(PACKAGE_SCHEME):
        return "VLLM takes GGUF only from a package:// source, where it is converted once"
    if not pool.nodes_for(engine):
        return f"{engine} is not installed on any node of pool {pool.name}"
    return None


def _reason(
    engine: Engine, model_format: ModelFormat, pool: Pool, obstacles: dict[Engine, str | None]
) -> str:
    first = preference(model_format)[0]
    if engine is first:
        return f"{engine}: the engine for {model_format} on {pool.accelerator}"
    return f"{engine}: {obstacles[first]}"
