"""How long one step of the engine takes: a roofline over the work of one rank, with measured fractions.

A step holds some requests that get one token each (decode) and some tokens of prompts (prefill). Each product takes
the longer of reading its weights and computing; reading the cache, all-reduces and fixed times come on top. Stages of
a pipeline follow each other, so a step takes the time of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log2
from typing import NamedTuple

from plinth.domain.accelerators.catalogue import CPU, Accelerator
from plinth.domain.sizing.calibration import SpeedConstants
from plinth.domain.sizing.engine_defaults import MOST_GRAPH_TOKENS
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.work import Product, StepWork, Width

_MICROSECONDS = 1_000_000
_FRONT_END_PIECE = 128
"""Tokens of one step that vLLM's front end hands to answers at a time (`VLLM_V1_OUTPUT_PROC_CHUNK_SIZE`).

Of no more than these it takes all that wait before it lets answers go on, so that one that lags sends several tokens as
one and catches up (v1/engine/async_llm.py, `output_handler`; `RequestOutputCollector`). Of more it lets them go on
after each piece, sends nearly every token alone, and may be what everybody waits for.
"""


class Batch(NamedTuple):
    """What one step of one copy holds."""

    decoding: int
    """Requests that get one token."""
    remembered: int
    """Tokens that those requests remember, together."""
    prompt: int = 0
    """Tokens of prompts."""
    pairs: int = 0
    """Pairs of a prompt's token in this step with one that stands before it."""
    sampled: int = 0
    """Prompts that end in this step and get their first token."""


@dataclass(frozen=True, kw_only=True)
class StepClock:
    """Times of steps, in microseconds, for one model in one shape on one accelerator."""

    work: StepWork
    shape: Shape
    accelerator: Accelerator
    constants: SpeedConstants
    across_nodes: bool = False
    """Stages lie on several nodes."""
    copies_a_front_end: int = 1
    """Copies of the model that one front end serves."""

    def step_microseconds(self, batch: Batch) -> float:
        """One step. The host's parts run beside the accelerator's, so the longest counts."""
        tokens = batch.decoding + batch.prompt
        busy = self._product(*self._head_rate, batch.decoding + batch.sampled) + self._fixed
        for each, rate in self._rates:
            busy += self._product(each, rate, tokens)
        busy += self._attention(batch) + self._messages(tokens)
        return max(busy, self._host(batch))

    @cached_property
    def _fixed(self) -> float:
        constants, work = self.constants, self.work
        narrow = any(self._narrow_flops(each) for each in work.products)
        unpacked = any(each.width is Width.UNPACKED for each in work.products)
        return (
            work.layers * constants.layer_microseconds
            + work.layers * narrow * constants.narrow_layer_microseconds
            + work.layers * unpacked * constants.unpacking_layer_microseconds
            + work.expert_layers * constants.expert_layer_microseconds
            + constants.step_microseconds
        )

    def _host(self, batch: Batch) -> float:
        """Launching the kernels that no CUDA graph holds, the engine's own loop, and handing out tokens.

        Attention over prompts is launched by itself, layer by layer; experts are as well in steps that are larger than
        all graphs: choosing, sorting and multiplying are some ten kernels, launched from Python.
        """
        constants, launching = self.constants, 0.0
        if batch.prompt:
            launching = self.work.layers * constants.launch_layer_microseconds
        if batch.decoding + batch.prompt > MOST_GRAPH_TOKENS:
            launching += self.work.expert_layers * constants.launch_expert_layer_microseconds
            launching += self.work.exchanged_layers * constants.launch_exchange_layer_microseconds
        # One core and one front end serve all batches that are in a pipeline.
        serial = max(self._core_microseconds(batch), self.handing_microseconds(batch))
        return max(launching, serial * self.shape.pipeline)

    def _core_microseconds(self, batch: Batch) -> float:
        """The engine's own loop: scheduling, preparing inputs, taking what was sampled (v1/engine/core.py)."""
        constants = self.constants
        return constants.core_step_microseconds + batch.decoding * constants.core_request_microseconds

    def handing_microseconds(self, batch: Batch) -> float:
        """What the front end takes to hand out a step's tokens, as far as others wait for it."""
        handed = batch.decoding if batch.decoding > _FRONT_END_PIECE else 0
        return handed * self.copies_a_front_end * self.constants.host_request_microseconds

    @cached_property
    def _share(self) -> float:
        """What is reached of the fractions: less on a CPU."""
        return self.constants.cpu_fraction if self.accelerator.name == CPU else 1.0

    @cached_property
    def _rates(self) -> tuple[tuple[Product, float], ...]:
        return tuple((each, self._rate(each)) for each in self.work.products)

    @cached_property
    def _head_rate(self) -> tuple[Product, float]:
        return self.work.head, self._rate(self.work.head)

    def _product(self, product: Product, rate: float, tokens: int) -> float:
        """The longer of reading the weights and computing."""
        read, flops = product.weights_bytes, product.flops_per_token * tokens
        fraction = self.constants.bandwidth_fraction
        if product.experts:
            # Each of n tokens misses an expert with probability 1 - share: the rest are read.
            everyones = tokens * self.shape.data
            read = round(read * (1 - (1 - product.touched_share) ** everyones))
            fraction = self.constants.expert_bandwidth_fraction
        reading = read / (self.accelerator.bandwidth_bytes_per_second * fraction)
        computing = flops / rate
        return max(reading, computing) * _MICROSECONDS / self._share

    def _rate(self, product: Product) -> float:
        """Operations a second that products of this kind reach. What the hardware cannot multiply is unpacked."""
        constants = self.constants
        narrow = self._narrow_flops(product)
        if narrow:
            return narrow * (
                constants.expert_flops_fraction if product.experts else constants.narrow_flops_fraction
            )
        fraction = constants.expert_flops_fraction if product.experts else constants.flops_fraction
        full = product.width is Width.FULL
        return self.accelerator.flops.bf16 * fraction * (1 if full else constants.unpacking_flops_fraction)

    def _narrow_flops(self, product: Product) -> int:
        """The hardware's rate with the eight bits that the product is multiplied as; 0: it is not, or cannot be."""
        flops = self.accelerator.flops
        return {Width.FP8: flops.fp8, Width.INT8: flops.int8}.get(product.width, 0)

    def _attention(self, batch: Batch) -> float:
        """Reading the cache of requests that get a token, and the products of prompts with what stands before."""
        read = flops = 0
        for cache in self.work.caches:
            remembered = batch.remembered
            if cache.window_tokens:
                remembered = min(remembered, batch.decoding * cache.window_tokens)
            read += cache.bytes_per_token * remembered + cache.state_bytes * batch.decoding
            pairs = batch.pairs
            if cache.window_tokens:
                pairs = min(pairs, batch.prompt * cache.window_tokens)
            flops += cache.flops_per_pair * pairs
        bandwidth = self.accelerator.bandwidth_bytes_per_second * self.constants.cache_bandwidth_fraction
        rate = self.accelerator.flops.bf16 * self.constants.attention_flops_fraction
        return (read / bandwidth + flops / rate) * _MICROSECONDS / self._share

    def _messages(self, tokens: int) -> float:
        """All-reduces of the tensor ranks, tokens to experts and back, and hidden states to the next stage."""
        link, size = self.accelerator.link, tokens * self.work.hidden_bytes
        latency = self.constants.all_reduce_microseconds[link.kind]
        total = 0.0
        if self.shape.tensor > 1:
            ranks = self.shape.tensor
            # A ring moves 2 · (n - 1) / n of the data over each link; latency grows with the hops of a tree.
            moved = 2 * (ranks - 1) / ranks * size / self._link_speed(ranks) * _MICROSECONDS
            total += self.work.reduced_layers * (latency * log2(ranks) + moved)
        if self.work.exchanged_layers:
            speed = self._link_speed(self.shape.tensor * self.shape.data)
            # Each rank gets the tokens of all copies, and gives back what its experts made of them: vLLM's default
            # (`all2all_backend`, allgather_reducescatter).
            sent = 2 * (self.shape.data - 1) * size / speed * _MICROSECONDS
            latency = self.constants.exchange_microseconds * log2(self.shape.data)
            total += self.work.exchanged_layers * (2 * latency + sent)
        if self.shape.pipeline > 1:
            total += (self.shape.pipeline - 1) * self._handover(size)
        return total

    def _handover(self, size: int) -> float:
        if not self.across_nodes:
            speed = self._link_speed(2)
            latency = self.constants.all_reduce_microseconds[self.accelerator.link.kind]
        else:
            speed = self.accelerator.node_link_bytes_per_second * self.constants.link_fraction
            latency = self.constants.node_microseconds
        return latency + size / speed * _MICROSECONDS

    def _link_speed(self, ranks: int) -> float:
        """Bytes a second that one of so many ranks of a link domain gets through to the others."""
        return max(1, self.accelerator.link.bytes_per_second_among(ranks)) * self.constants.link_fraction
