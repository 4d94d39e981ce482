"""The most that one step of the engine needs beside weights and KV cache, as vLLM's profiling run finds it.

vLLM runs the largest step once (`determine_available_memory`): `max-num-batched-tokens` tokens without attention, then
the sampler for `max-num-seqs` requests. The peak is the larger of the two, on top of the hidden state.
"""

from __future__ import annotations

from plinth.api.v1alpha1 import Task
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import Attention, AttentionKind, FeedForward
from plinth.domain.models.weights import Part
from plinth.domain.sizing.engine_defaults import LATENT_BLOCK_TOKENS, BatchLimits, has_new_runner
from plinth.domain.sizing.shape import Shape

_MOST_WORKSPACE_TOKENS = 64 * 1024
_NEW_SAMPLER_BYTES = 6
"""A logit at 16 bits and its copy at 32 (v1/worker/gpu/sample/sampler.py)."""
_OLD_SAMPLER_BYTES = 18
"""As above, probabilities and noise at 32 bits (v1/sample/ops/topk_topp_sampler.py, `forward_native`), and a copy more:
17.4 to 18 were seen for vocabularies of 163,840 and 151,936."""


def activation_bytes(
    model: ModelArchitecture, shape: Shape, limits: BatchLimits, *, context_tokens: int, hidden_copies: int
) -> int:
    """Peak of a step on one rank.

    Qwen2.5-32B, 8192 tokens, TP1: 2 · 80 MiB of hidden state + 8192 · 3 · 27648 · 2 B = 1456 MiB.
    """
    hidden = limits.tokens * model.hidden * model.dtype_bytes * hidden_copies
    layers = max(
        max(
            _feed_forward_bytes(model, each.feed_forward, shape, limits.tokens),
            _attention_bytes(model, each.attention, shape, limits, context_tokens),
        )
        for each in model.layers
    )
    return hidden + max(layers, _sampler_bytes(model, limits))


def _feed_forward_bytes(model: ModelArchitecture, part: FeedForward, shape: Shape, tokens: int) -> int:
    """The inner products and what the activation makes of them; of experts, both workspaces.

    Experts: tokens · chosen · (max(inner, hidden) + max(2 · inner, hidden)), of which vLLM says
    `workspace_shapes` (fused_moe/experts/triton_moe.py); with experts spread, a rank works on its share of them.
    """
    inner = 3 if part.gated else 2
    dense = tokens * max(part.width, part.shared_width) // shape.tensor * inner * model.dtype_bytes
    if _multiplies_bytes(model):
        dense += tokens * part.width // shape.tensor
    if not part.experts:
        return dense
    width = part.expert_width // shape.expert_split
    rows = tokens * shape.data * part.experts_per_token
    elements = rows * (max(width, model.hidden) + max(2 * width, model.hidden))
    shared = tokens * part.shared_width // shape.tensor * inner
    return max(dense, (elements + shared) * model.dtype_bytes)


def _multiplies_bytes(model: ModelArchitecture) -> bool:
    """Whether inputs are made eight bits wide as well, which takes a copy of them."""
    quantization = model.quantization
    return (
        quantization is not None
        and quantization.method in {"fp8", "int8", "modelopt", "fbgemm_fp8"}
        and Part.FEED_FORWARD not in quantization.kept_in_full
    )


def _attention_bytes(
    model: ModelArchitecture, attention: Attention, shape: Shape, limits: BatchLimits, context_tokens: int
) -> int:
    """Queries, keys and values; for a latent also the workspace in which K and V of a long context are unfolded.

    `MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size`: eight full contexts or four blocks a request,
    at most 65536 tokens, and one block a request at least.
    """
    if attention.kind is AttentionKind.LINEAR or not attention.heads:
        return 0
    heads = attention.heads // shape.tensor
    widths = heads * (attention.head_dim + attention.value_dim)
    if attention.kind is not AttentionKind.LATENT:
        kv = max(1, attention.kv_heads // shape.tensor) * (attention.head_dim + attention.value_dim)
        return limits.tokens * (widths + kv) * model.dtype_bytes
    block = LATENT_BLOCK_TOKENS
    workspace = min(max(8 * context_tokens, 4 * limits.sequences * block), _MOST_WORKSPACE_TOKENS)
    unfolded = heads * (attention.head_dim - attention.rope_width + attention.value_dim)
    kept = limits.tokens * (widths + heads * attention.value_dim)
    return (max(workspace, limits.sequences * block) * unfolded + kept) * model.dtype_bytes


def _sampler_bytes(model: ModelArchitecture, limits: BatchLimits) -> int:
    """Logits of as many requests as a step may hold, on every rank alike: vLLM gathers them all."""
    if model.task is not Task.GENERATE:
        return 0
    a_logit = _NEW_SAMPLER_BYTES if has_new_runner(model) else _OLD_SAMPLER_BYTES
    return limits.sequences * model.vocabulary * a_logit
