"""A model as planning sees it: its layers and what they weigh, keep of each token and compute; see `reading`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain, repeat
from math import gcd

from plinth.api.v1alpha1 import Task
from plinth.domain.models.blocks import AttentionKind, Layers
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.stages import Stage, make_stages
from plinth.domain.models.weights import WHOLE, Part, Weights
from plinth.domain.quantities import ceil_div

VOCABULARY_STEP = 64
"""vLLM pads the vocabulary to a multiple of this (vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE)."""
BITS_HUNDREDTHS_PER_BYTE = 800


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
    rotary_bytes: int = 0
    """Of an engine's tables for rotary positions, on every accelerator."""
    counted: tuple[tuple[Part, int], ...] = ()
    """Weights of each part, where the checkpoint's tensors told; counted by the layers for other parts."""
    stored: tuple[tuple[Part, int], ...] = ()
    """Bytes that each quantised part takes, where they told; computed for other parts."""
    task: Task = Task.GENERATE
    """What it looks made for; the user's word counts more."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: it goes through all layers, and what is remembered of a model is looked up by it."""
        return hash(tuple(getattr(self, each.name) for each in fields(self)))

    @property
    def parameters(self) -> int:
        """All weights of the model, the prediction layers that are not loaded left out."""
        return sum(self._counted.get(part, elements) for part, elements in self._elements.items())

    @property
    def parts(self) -> frozenset[Part]:
        """The parts that it has."""
        return frozenset(part for part, elements in self._elements.items() if elements)

    @property
    def has_head(self) -> bool:
        """Whether its last step is a product with the vocabulary: engines load no head for what generates nothing.

        vllm/model_executor/models/adapters.py, `_create_pooling_model_cls`.
        """
        return self.task is Task.GENERATE

    @property
    def active_parameters(self) -> int:
        """Weights that one token of text passes through: of the experts, the chosen ones; no vision tower."""
        every = sum(count * each.active_elements for count, each in self._all_weights())
        return every - self.vision_parameters

    @property
    def layer_count(self) -> int:
        """Layers in all."""
        return sum(each.count for each in self.layers)

    @property
    def heads(self) -> int:
        """Heads that tensor parallelism has to divide: the greatest common divisor over all layers."""
        return gcd(*(each.attention.heads for each in self.layers))

    @property
    def kv_heads(self) -> int:
        """The fewest KV heads of any layer that keeps K and V (1: a latent); those of an encoder's layers else."""
        attentions = [each.attention for each in self.layers]
        kept = [each.kv_heads for each in attentions if each.kv_elements_per_token(1)]
        return min(kept or [each.kv_heads for each in attentions if each.kv_heads], default=0)

    @property
    def experts(self) -> int:
        """Routed experts of a layer; 0 for a dense model."""
        return max(each.feed_forward.experts for each in self.layers)

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
        found = self._heaviest.get((tensor, pipeline, expert))
        if found is None:
            stages = self._stages(pipeline)
            found = max(self._stage_bytes(stage, tensor=tensor, expert=expert) for stage in stages)
            self._heaviest[tensor, pipeline, expert] = found
        return found

    @cached_property
    def _heaviest(self) -> dict[tuple[int, int, int], int]:
        """What was computed before: the same models are asked about again and again."""
        return {}

    def kv_bytes_per_token_per_rank(self, *, tensor: int, pipeline: int, element_bytes: int) -> int:
        """What the stage with most KV cache keeps on each rank of one more token: layers that grow with the context."""
        return max(
            sum(
                count * self._grown_bytes(self.layers[kind], tensor=tensor, element_bytes=element_bytes)
                for kind, count in stage.layers.items()
                if self.layers[kind].attention.kind is not AttentionKind.SLIDING
            )
            for stage in self._stages(pipeline)
        )

    def kv_bytes_per_request_per_rank(
        self, tokens: int, *, tensor: int, pipeline: int, element_bytes: int, step_tokens: int = 0
    ) -> int:
        """What the fullest rank keeps of a request with `tokens` tokens, windows and linear states included.

        A sliding layer keeps its window, and while a step reads `step_tokens` of a prompt, these as well.
        """
        totals = []
        for stage in self._stages(pipeline):
            total = 0
            for kind, count in stage.layers.items():
                attention = self.layers[kind].attention
                window = attention.window_tokens
                kept = min(tokens, max(window, window - 1 + step_tokens)) if window else tokens
                a_token = self._grown_bytes(self.layers[kind], tensor=tensor, element_bytes=element_bytes)
                total += count * (kept * a_token + ceil_div(attention.state_bytes_per_request, tensor))
            totals.append(total)
        return max(totals)

    def flops_per_token(self, context_tokens: int) -> int:
        """Operations to compute one token behind `context_tokens` others: 2 · active weights + attention's products.

        A softmax layer takes 2 · heads · (key + value width) for each token it looks at. The embedding is looked
        up and not multiplied, unless it is the head as well.
        """
        looked_up = 0 if self.tied_embeddings and self.has_head else self.vocabulary * self.hidden
        total = 2 * (self.active_parameters - looked_up)
        for each in self.layers:
            attention = each.attention
            if attention.kind is not AttentionKind.LINEAR:
                seen = min(context_tokens, attention.window_tokens or context_tokens)
                width = attention.heads * (attention.head_dim + attention.value_dim)
                total += each.count * 2 * width * seen
        return total

    def _stages(self, pipeline: int) -> tuple[Stage, ...]:
        found = self._staged.get(pipeline)
        if found is None:
            one_kind_after_the_other = chain.from_iterable(
                repeat(kind, each.count) for kind, each in enumerate(self.layers)
            )
            found = make_stages(self.order or tuple(one_kind_after_the_other), pipeline)
            self._staged[pipeline] = found
        return found

    @cached_property
    def _staged(self) -> dict[int, tuple[Stage, ...]]:
        """By the number of stages, what was computed before."""
        return {}

    def _all_weights(self) -> Iterator[tuple[int, Weights]]:
        """Every weight with how often it occurs, the vocabulary as it is."""
        for each in self.layers:
            for weights in each.weights(self.hidden):
                yield each.count, weights
        for weights in self._outer_weights(self.vocabulary, first=True, last=True):
            yield 1, weights

    @cached_property
    def _elements(self) -> Counter[Part]:
        """All elements of each part."""
        found: Counter[Part] = Counter()
        for count, each in self._all_weights():
            found[each.part] += count * each.elements
        return found

    @cached_property
    def _counted(self) -> Mapping[Part, int]:
        return dict(self.counted)

    @cached_property
    def _stored_bytes(self) -> Mapping[Part, int]:
        return dict(self.stored)

    def _outer_weights(self, rows: int, *, first: bool, last: bool) -> Iterator[Weights]:
        """What a stage holds beside its layers, with a vocabulary of so many rows."""
        if first or (last and self.tied_embeddings):
            yield Weights(Part.EMBEDDING, rows * self.hidden)
        if last and self.has_head and not self.tied_embeddings:
            yield Weights(Part.HEAD, rows * self.hidden)
        yield Weights(Part.VISION, self.vision_parameters)
        yield Weights(Part.VECTORS, self.outer_vectors, WHOLE)

    def _stage_bytes(self, stage: Stage, *, tensor: int, expert: int) -> int:
        held: Counter[Part] = Counter()
        copies = 0
        for kind, count in stage.layers.items():
            layer = self.layers[kind]
            for each in layer.weights(self.hidden):
                held[each.part] += count * each.on_a_rank(tensor=tensor, expert=expert)
            copies += count * ceil_div(layer.attention.absorbed_elements, tensor)
        padded = ceil_div(self.vocabulary, VOCABULARY_STEP) * VOCABULARY_STEP
        for each in self._outer_weights(padded, first=stage.first, last=stage.last):
            held[each.part] += each.on_a_rank(tensor=tensor, expert=expert)
        total = sum(self._bytes(part, elements) for part, elements in held.items())
        return total + (copies * self.dtype_bytes if self._is_quantised(Part.ATTENTION) else 0)

    def _bytes(self, part: Part, elements: int) -> int:
        """Bytes of so many elements of a part by the layers' count: their share of what the tensors tell of it."""
        if not elements:
            return 0
        everything = self._elements[part]
        if self.quantization and self._is_quantised(part):
            stored = self._stored_bytes.get(part)
            if stored is not None:
                return ceil_div(stored * elements, everything)
            return ceil_div(elements * self.quantization.weight_bits_hundredths, BITS_HUNDREDTHS_PER_BYTE)
        return ceil_div(self._counted.get(part, everything) * elements, everything) * self.dtype_bytes

    def _is_quantised(self, part: Part) -> bool:
        return self.quantization is not None and part not in self.quantization.kept_in_full

    @staticmethod
    def _grown_bytes(layer: Layers, *, tensor: int, element_bytes: int) -> int:
        attention = layer.attention
        return attention.kv_elements_per_token(tensor) * element_bytes + attention.index_bytes_per_token
