"""The blocks of a transformer and the weights of each: attention of every kind, feed-forward parts, equal layers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from plinth.domain.models.weights import WHOLE, Part, Weights


class AttentionKind(StrEnum):
    """How a layer looks at other tokens, which decides what it keeps of them."""

    FULL = "full"
    """Keeps K and V of every token."""
    SLIDING = "sliding"
    """Looks at the last `window_tokens` only; chunked attention counts as this."""
    LATENT = "latent"
    """Multi-head latent attention: one latent a token for all heads, whole on every rank."""
    LINEAR = "linear"
    """Mamba, gated delta rule and their like: a state of fixed size for each request."""
    ENCODER = "encoder"
    """Sees the whole text at once and keeps nothing."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What one layer does to look at other tokens."""

    kind: AttentionKind
    heads: int
    kv_heads: int
    """1 for latent attention: all heads share the latent."""
    head_dim: int
    """Width of a head's query and key, the part with positions included."""
    value_dim: int
    window_tokens: int = 0
    latent_width: int = 0
    q_latent_width: int = 0
    """Width of the latent that queries come from; 0 where they come from the hidden state."""
    rope_width: int = 0
    """The part of `head_dim` that carries positions and is kept beside the latent."""
    state_bytes_per_request: int = 0
    index_bytes_per_token: int = 0
    """What a sparse indexer keeps of each token beside the latent, on every rank."""
    qkv_bias: bool = False
    output_gate: bool = False
    """The query projection also makes a gate of its own width (Qwen3-Next)."""
    vectors: int = 0
    """Elements of the norms, sinks and output bias in it, whole on every rank."""
    projections: tuple[Weights, ...] = ()
    """Weights beyond those of softmax attention: all of a linear layer's, those of a sparse indexer."""

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Its weights in a model `hidden` wide."""
        if self.kind is AttentionKind.LINEAR:
            own: tuple[Weights, ...] = ()
        elif self.kind is AttentionKind.LATENT:
            own = self._latent_weights(hidden)
        else:
            own = self._softmax_weights(hidden)
        return (*own, *self.projections, Weights(Part.VECTORS, self.vectors, WHOLE))

    @property
    def absorbed_elements(self) -> int:
        """The up-projection of a latent's keys and values, of which vLLM keeps a copy at full width.

        vllm/model_executor/layers/attention/mla_attention.py, `process_weights_after_loading`: a view where the
        weights are at full width already.
        """
        return self.latent_width * self.heads * (self.head_dim - self.rope_width + self.value_dim)

    def kv_elements_per_token(self, tensor: int) -> int:
        """Elements that one of `tensor` ranks keeps of each token it remembers.

        Softmax: KV heads / TP (at least one) · (K + V width). Latent: latent + position width, on every rank.
        """
        if self.kind is AttentionKind.LATENT:
            return self.latent_width + self.rope_width
        if self.kind in {AttentionKind.LINEAR, AttentionKind.ENCODER}:
            return 0
        return max(1, self.kv_heads // tensor) * (self.head_dim + self.value_dim)

    def _softmax_weights(self, hidden: int) -> tuple[Weights, ...]:
        queries = self.heads * self.head_dim * (2 if self.output_gate else 1)
        kv = self.kv_heads * (self.head_dim + self.value_dim)
        return (
            Weights(Part.ATTENTION, hidden * queries + self.heads * self.value_dim * hidden),
            Weights(Part.ATTENTION, hidden * kv, self.kv_heads),
            *(
                (Weights(Part.VECTORS, queries), Weights(Part.VECTORS, kv, self.kv_heads))
                if self.qkv_bias
                else ()
            ),
        )

    def _latent_weights(self, hidden: int) -> tuple[Weights, ...]:
        """DeepSeek-V2 (arXiv 2405.04434, section 2.1): down-projections whole, up-projections split by head."""
        down = hidden * (self.q_latent_width + self.latent_width + self.rope_width)
        up = (self.q_latent_width or hidden) * self.heads * self.head_dim
        output = self.heads * self.value_dim * hidden
        return (
            Weights(Part.ATTENTION, down, WHOLE),
            Weights(Part.ATTENTION, up + self.absorbed_elements + output),
        )


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """What one layer does to each token alone: a dense part, experts, or both."""

    width: int
    """Of the dense part; 0 where there are only experts."""
    gated: bool = True
    """Three matrices (gate, up, down) and not two."""
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0
    """Of the experts that every token passes through, together."""
    vectors: int = 0
    """Elements of biases and of the router's corrections, whole on every rank."""
    expert_vectors: int = 0
    """Elements of the biases of one expert."""

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Its weights in a model `hidden` wide."""
        matrices = 3 if self.gated else 2
        found = [
            Weights(Part.FEED_FORWARD, matrices * hidden * self.width),
            Weights(Part.SHARED_EXPERTS, matrices * hidden * self.shared_width),
            Weights(Part.VECTORS, self.vectors, WHOLE),
        ]
        if self.experts:
            one = matrices * hidden * self.expert_width
            routed = {"experts": self.experts, "chosen": self.experts_per_token}
            found += [
                Weights(Part.ROUTER, hidden * self.experts, WHOLE),
                Weights(Part.EXPERTS, one * self.experts, **routed),
                Weights(Part.VECTORS, self.expert_vectors * self.experts, **routed),
            ]
        return tuple(found)


NO_ATTENTION = Attention(kind=AttentionKind.ENCODER, heads=0, kv_heads=0, head_dim=0, value_dim=0)
"""Of a layer that is a feed-forward part alone (Nemotron-H)."""
NO_FEED_FORWARD = FeedForward(width=0)
"""Of a layer that is attention or a mixer alone."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Equal layers of a model, wherever they stand in it."""

    count: int
    attention: Attention
    feed_forward: FeedForward
    norms: int = 0
    """Elements of one layer's norms, beside those in its attention."""

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Weights of one of these layers, those with no elements left out."""
        every = (
            *self.attention.weights(hidden),
            *self.feed_forward.weights(hidden),
            Weights(Part.VECTORS, self.norms, WHOLE),
        )
        return tuple(each for each in every if each.elements)
