"""Models, places and requests for tests of sizing: say only what matters to the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plinth.domain.accelerators.catalogue import Accelerator, find_accelerator
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import Attention, AttentionKind, FeedForward, Layers
from plinth.domain.sizing.request import Asked, EngineOptions, Goals, Load, Place, SizingRequest

SOFTMAX = Attention(kind=AttentionKind.FULL, heads=40, kv_heads=8, head_dim=128, value_dim=128, qkv_bias=True)
LATENT = Attention(
    kind=AttentionKind.LATENT,
    heads=16,
    kv_heads=1,
    head_dim=192,
    value_dim=128,
    latent_width=512,
    rope_width=64,
)
EXPERTS = FeedForward(width=0, experts=128, experts_per_token=8, expert_width=768)
QWEN_32B = ModelArchitecture(
    name="qwen2",
    layers=(Layers(count=64, attention=SOFTMAX, feed_forward=FeedForward(width=27648), norms=10240),),
    hidden=5120,
    vocabulary=49152,
    tied_embeddings=False,
    max_context_tokens=32768,
    outer_vectors=5120,
)
"""Qwen2.5-32B's shape, with the vocabulary that it was measured with."""
QWEN_7B = replace(
    QWEN_32B,
    layers=(
        Layers(
            count=28,
            attention=replace(SOFTMAX, heads=28, kv_heads=4),
            feed_forward=FeedForward(width=18944),
            norms=7168,
        ),
    ),
    hidden=3584,
)
QWEN_30B_A3B = replace(
    QWEN_32B,
    name="qwen3_moe",
    layers=(
        Layers(
            count=48,
            attention=replace(SOFTMAX, heads=32, kv_heads=4, qkv_bias=False),
            feed_forward=EXPERTS,
            norms=4096,
        ),
    ),
    hidden=2048,
    vocabulary=151936,
)


def one_layer(model: ModelArchitecture, **changes: Any) -> ModelArchitecture:
    """The model with every layer changed alike."""
    return replace(model, layers=tuple(replace(each, **changes) for each in model.layers))


def known(kind: str) -> Accelerator:
    found = find_accelerator(kind)
    assert found is not None
    return found


def ask(
    model: ModelArchitecture = QWEN_32B,
    *,
    gpu: str = "H200",
    per_node: int = 8,
    nodes: int = 1,
    percent: int = 90,
    memory: int = 0,
    users: int = 40,
    tokens_in: int = 512,
    tokens_out: int = 256,
    context: int = 8192,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    options: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
    **goals: int,
) -> SizingRequest:
    return SizingRequest(
        model=model,
        place=Place(
            accelerator=known(gpu),
            accelerators_per_node=per_node,
            nodes=nodes,
            memory_bytes=memory,
            utilization_percent=percent,
            cost_per_accelerator_hour="3.9",
        ),
        load=Load(
            concurrency=users, input_tokens=tokens_in, output_tokens=tokens_out, context_tokens=context
        ),
        goals=Goals(**goals),
        asked=asked,
        options=options,
    )
