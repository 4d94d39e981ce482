"""Which part of a model a tensor or a module belongs to, by its name in safetensors or GGUF."""

from __future__ import annotations

import re

from plinth.domain.models.weights import Part

PATTERNS: tuple[tuple[Part, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern))
    for part, pattern in (
        (Part.VISION, r"visual|vision|audio|multi_modal|mm_|^v\.|^mm\.|image_newline|patch_merger"),
        (
            Part.VECTORS,
            r"norm|bias$|sinks|\bln_|conv1d|A_log|dt_|position|wpe|token_type|pooler|classifier|^score\.|_norm\b",
        ),
        (Part.SHARED_EXPERTS, r"shared_expert|shared_mlp|_shexp"),
        (Part.ROUTER, r"router|(mlp|moe|feed_forward|mixer)\.gate(\.|$)|ffn_gate_inp|\bgate$"),
        (Part.EXPERTS, r"experts|_exps"),
        (Part.HEAD, r"lm_head|^output(\.|$)|embed_out"),
        (Part.EMBEDDING, r"embed|wte|token_embd"),
        (Part.FEED_FORWARD, r"mixer\.(up|down)_proj"),
        (Part.ATTENTION, r"attn|attention|mamba|mixer|ssm_|\bconv\b|[qkvo]_proj"),
    )
)
"""The first that is found in the name decides; what none finds is feed-forward."""


def part_of(name: str) -> Part:
    """The part that this name belongs to."""
    return next((part for part, pattern in PATTERNS if pattern.search(name)), Part.FEED_FORWARD)
