"""What vLLM 0.25.1 sets by itself where nothing is said: batch limits, the model runner, the graphs it captures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plinth.api.v1alpha1 import Task
from plinth.domain.accelerators.catalogue import CPU, Accelerator
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import AttentionKind
from plinth.domain.quantities import GIB
from plinth.domain.sizing.request import EngineOptions

BLOCK_TOKENS = 16
"""KV cache is dealt out in blocks of so many tokens (`CacheConfig.DEFAULT_BLOCK_SIZE`)."""
LATENT_BLOCK_TOKENS = 64
"""Most kernels of the latent take blocks of this (v1/attention/backends/mla), some take 16."""
CPU_BLOCK_TOKENS = 128
"""platforms/cpu.py."""
_LEAST_SEQUENCES = 256
"""The default of a small accelerator."""
_LARGE_BYTES = 70 * GIB
MOST_GRAPH_TOKENS = 512
"""Steps of more tokens run without CUDA graphs (`VllmConfig._set_cudagraph_sizes`)."""
MOST_ADAPTERS_AT_ONCE = 8
"""LoRA adapters in one batch where nothing is said; each takes its memory from the KV cache."""
_ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM makes room for (config/lora.py, `MaxLoRARanks`)."""
_NEW_RUNNER_MODELS = frozenset({"deepseek_v2", "qwen2_moe", "granitemoe"})
"""Of the models with experts, those that run on the new model runner (config/vllm.py,
`DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES`)."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """How much one step of the engine may hold."""

    tokens: int
    sequences: int


def batch_limits(accelerator: Accelerator, total_bytes: int, options: EngineOptions) -> BatchLimits:
    """The limits of a server (`EngineArgs.get_batch_defaults`): by memory, and fewer on an A100 of any size."""
    if accelerator.name == CPU:
        tokens = options.batched_tokens or 2048
        return BatchLimits(tokens=tokens, sequences=min(options.sequences or 128, tokens))
    large = total_bytes >= _LARGE_BYTES and not accelerator.name.startswith("A100")
    tokens = options.batched_tokens or (8192 if large else 2048)
    sequences = options.sequences or (1024 if large else 256)
    return BatchLimits(tokens=tokens, sequences=min(sequences, tokens))


def asked_sequences(concurrency: int) -> int | None:
    """What vLLM is told of requests in a step; None leaves it at its default.

    Never fewer than that: more than was planned for may come, and waiting is worse.
    """
    return concurrency if concurrency > _LEAST_SEQUENCES else None


def adapters_at_once(count: int) -> int:
    """What vLLM is told of adapters in a batch. Its own bound is one: requests for others would wait for each other."""
    return min(count, MOST_ADAPTERS_AT_ONCE)


def adapter_rank(ranks: Iterable[int]) -> int:
    """What vLLM is told of these adapters' ranks: the next that it makes room for; 0 where there are none."""
    highest = max(ranks, default=0)
    return next(rank for rank in _ADAPTER_RANKS if rank >= highest) if highest else 0


def block_tokens(model: ModelArchitecture, accelerator: Accelerator) -> int:
    """Tokens in one block of the KV cache."""
    if accelerator.name == CPU:
        return CPU_BLOCK_TOKENS
    latent = any(each.attention.kind is AttentionKind.LATENT for each in model.layers)
    return LATENT_BLOCK_TOKENS if latent else BLOCK_TOKENS


def has_new_runner(model: ModelArchitecture) -> bool:
    """Whether vLLM runs the model on its second model runner (`VllmConfig.use_v2_model_runner`).

    It reserves no memory for CUDA graphs before it deals out the KV cache, and its sampler needs less.
    """
    if model.task is not Task.GENERATE:
        return False
    if any(each.attention.kind is AttentionKind.LINEAR for each in model.layers):
        return False
    return model.experts == 0 or model.name in _NEW_RUNNER_MODELS


def graph_count(limits: BatchLimits) -> int:
    """How many CUDA graphs vLLM captures: of whole steps and of pieces, one each for every size of batch.

    Sizes are 1, 2, 4, every 8th up to 256, every 16th up to 512 (`VllmConfig._set_cudagraph_sizes`): 51 of them with
    the defaults of a large accelerator.
    """
    most = min(limits.sequences * 2, MOST_GRAPH_TOKENS, limits.tokens)
    small = sum(1 for size in (1, 2, 4) if size <= most)
    middle = len(range(8, min(most + 1, 256), 8))
    return 2 * (small + middle + len(range(256, most + 1, 16)))
