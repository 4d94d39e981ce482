"""A model as planning sees it: its layers and what they weigh, keep of each token and compute; see `reading`."""

from __future__ import annotations

from dataclasses import dataclass

from plinth.api.v1alpha1 import Task
from plinth.domain.models.blocks import Layers
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.weights import Part


@dataclass(frozen=True, kw_only=True)
class ModelArchitecture:
    """All that is known of a model without loading it."""

    name: str
    """Its `model_type` or GGUF architecture: `qwen2`, `llama`, …"""
    layers: tuple[Layers, ...]
    """Equal layers together, in the order of their first appearance."""
    order: tuple[int, ...] = ()
    """For each layer from the input on, its index in `layers`; empty where they stand one kind after the other."""
    hidden: int
    vocabulary: int
    tied_embeddings: bool
    max_context_tokens: int
    """0 when not stated."""
    dtype_bytes: int = 2
    """Of what is not quantised, once loaded."""
    quantization: Quantization | None = None
    vision_parameters: int = 0
    """The tower and its projector."""
    outer_vectors: int = 0
    """Parameters outside layers and vocabulary: last norm, position and segment embeddings, pooler, classifier."""
    stored: tuple[tuple[Part, int], ...] = ()
    """Bytes that each part takes once loaded, where the checkpoint's tensors told; computed for other parts."""
    task: Task = Task.GENERATE
    """What it looks made for; the user's word counts more."""

    @property
    def parameters(self) -> int:
        """All weights of the model, the prediction layers that are not loaded left out."""
        raise NotImplementedError

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through: of the experts, the chosen ones."""
        raise NotImplementedError

    @property
    def layer_count(self) -> int:
        """Layers in all."""
        raise NotImplementedError

    @property
    def heads(self) -> int:
        """Heads that tensor parallelism has to divide: the greatest common divisor over all layers."""
        raise NotImplementedError

    @property
    def kv_heads(self) -> int:
        """The fewest KV heads of any layer that has them; 1 for latent attention."""
        raise NotImplementedError

    @property
    def experts(self) -> int:
        """Routed experts of a layer; 0 for a dense model."""
        raise NotImplementedError

    @property
    def weights_bytes(self) -> int:
        """What one accelerator would hold of it alone."""
        return self.weights_bytes_per_rank(tensor=1, pipeline=1, expert=1)

    def weights_bytes_per_rank(self, *, tensor: int, pipeline: int, expert: int) -> int:
        """What the heaviest rank holds.

        Split by `tensor` as vLLM does: the vocabulary padded to 64; K and V down to one KV head; the latent's
        down-projections, norms and router whole on every rank. Experts lie whole on `expert` ranks where that is
        above 1, else each is split by `tensor`. The first of the `pipeline` stages holds the embedding, the last
        one the head (with tied embeddings a copy), every stage the vision tower.
        """
        raise NotImplementedError

    def kv_bytes_per_token_per_rank(self, *, tensor: int, pipeline: int, element_bytes: int) -> int:
        """What the stage with most KV cache keeps on each rank of one more token: layers that grow with the context."""
        raise NotImplementedError

    def kv_bytes_per_request_per_rank(
        self, tokens: int, *, tensor: int, pipeline: int, element_bytes: int, hybrid: bool = True
    ) -> int:
        """What the same rank keeps of a request with `tokens` tokens, windows and linear states included.

        Without `hybrid`, sliding layers keep all tokens: engines that give every layer the same cache do so.
        """
        raise NotImplementedError

    def flops_per_token(self, context_tokens: int) -> int:
        """Operations to compute one token behind `context_tokens` others: 2 · active weights + attention's products.

        A softmax layer takes 2 · heads · (key + value width) for each token it looks at.
        """
        raise NotImplementedError
