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


class _TimedProduct(NamedTuple):
    """Microseconds that products of one kind take."""

    reading: float
    """All of their weights."""
    computing: float
    """For each token."""
    missed: float
    """The probability that a token does not pass through an expert; 0 for weights that all tokens meet."""

    def microseconds(self, tokens: int, everyones: int = 1) -> float:
        """The longer of reading and computing; `everyones` are the tokens of all copies, whose experts are shared."""
        # Each of n tokens misses an expert with probability `missed`: those that one of them meets are read.
        reading = self.reading * (1 - self.missed**everyones) if self.missed else self.reading
        return max(reading, tokens * self.computing)


class _Message(NamedTuple):
    """Microseconds of a step's messages."""

    latency: float
    a_token: float


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
        busy = self._fixed + self._attention(batch) + self._message.latency + tokens * self._message.a_token
        busy += self._head.microseconds(batch.decoding + batch.sampled)
        everyones = tokens * self.shape.data
        for each in self._products:
            busy += each.microseconds(tokens, everyones)
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
    def _products(self) -> tuple[_TimedProduct, ...]:
        return tuple(map(self._time, self.work.products))

    @cached_property
    def _head(self) -> _TimedProduct:
        return self._time(self.work.head)

    def _time(self, product: Product) -> _TimedProduct:
        constants, whole = self.constants, _MICROSECONDS / self._share
        fraction = constants.expert_bandwidth_fraction if product.experts else constants.bandwidth_fraction
        bandwidth = self.accelerator.bandwidth_bytes_per_second * fraction
        return _TimedProduct(
            reading=product.weights_bytes / bandwidth * whole,
            computing=product.flops_per_token / self._rate(product) * whole,
            missed=1 - product.touched_share if product.experts else 0.0,
        )

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
        return read * self._reading_cache + flops * self._attending

    @cached_property
    def _reading_cache(self) -> float:
        """Microseconds a byte."""
        bandwidth = self.accelerator.bandwidth_bytes_per_second * self.constants.cache_bandwidth_fraction
        return _MICROSECONDS / bandwidth / self._share

    @cached_property
    def _attending(self) -> float:
        """Microseconds an operation."""
        rate = self.accelerator.flops.bf16 * self.constants.attention_flops_fraction
        return _MICROSECONDS / rate / self._share

    @cached_property
    def _message(self) -> _Message:
        """All-reduces of the tensor ranks, tokens to experts and back, and hidden states to the next stage."""
        shape, work, size = self.shape, self.work, self.work.hidden_bytes
        latency = a_token = 0.0
        if shape.tensor > 1:
            ranks = shape.tensor
            # A ring moves 2 · (n - 1) / n of the data over each link; latency grows with the hops of a tree.
            moved = 2 * (ranks - 1) / ranks * size / self._link_speed(ranks) * _MICROSECONDS
            latency += work.reduced_layers * self._latency * log2(ranks)
            a_token += work.reduced_layers * moved
        if work.exchanged_layers:
            # Each rank gets the tokens of all copies, and gives back what its experts made of them: vLLM's default
            # (`all2all_backend`, allgather_reducescatter).
            sent = 2 * (shape.data - 1) * size / self._link_speed(shape.tensor * shape.data) * _MICROSECONDS
            latency += work.exchanged_layers * 2 * self.constants.exchange_microseconds * log2(shape.data)
            a_token += work.exchanged_layers * sent
        if shape.pipeline > 1:
            handover = self._handover(size)
            latency += (shape.pipeline - 1) * handover.latency
            a_token += (shape.pipeline - 1) * handover.a_token
        return _Message(latency, a_token)

    @property
    def _latency(self) -> float:
        return self.constants.all_reduce_microseconds[self.accelerator.link.kind]

    def _handover(self, size: int) -> _Message:
        """A token's hidden state to the next stage."""
        if not self.across_nodes:
            return _Message(self._latency, size / self._link_speed(2) * _MICROSECONDS)
        speed = self.accelerator.node_link_bytes_per_second * self.constants.link_fraction
        return _Message(self.constants.node_microseconds, size / speed * _MICROSECONDS)

    def _link_speed(self, ranks: int) -> float:
        """Bytes a second that one of so many ranks of a link domain gets through to the others."""
        return max(1, self.accelerator.link.bytes_per_second_among(ranks)) * self.constants.link_fraction
