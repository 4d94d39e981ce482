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
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.work import Product, StepWork, Width

_MICROSECONDS = 1_000_000


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

    def step_microseconds(self, batch: Batch) -> float:
        """One step. The host's part runs beside the accelerator's, so the longer one counts."""
        tokens = batch.decoding + batch.prompt
        products = sum(self._product(each, tokens) for each in self.work.products)
        products += self._product(self.work.head, batch.decoding + batch.sampled)
        busy = products + self._attention(batch) + self._messages(tokens) + self._fixed
        return max(busy, self.constants.host_request_microseconds * batch.decoding)

    @cached_property
    def _fixed(self) -> float:
        return self.work.layers * self.constants.layer_microseconds + self.constants.step_microseconds

    @cached_property
    def _share(self) -> float:
        """What is reached of the fractions: less on a CPU."""
        return self.constants.cpu_fraction if self.accelerator.name == CPU else 1.0

    def _product(self, product: Product, tokens: int) -> float:
        """The longer of reading the weights and computing."""
        read, flops = product.weights_bytes, product.flops_per_token * tokens
        fraction = self.constants.bandwidth_fraction
        if product.experts:
            # Each of n tokens misses an expert with probability 1 - share: the rest are read.
            everyones = tokens * self.shape.data
            read = round(read * (1 - (1 - product.touched_share) ** everyones))
            fraction = self.constants.expert_bandwidth_fraction
        reading = read / (self.accelerator.bandwidth_bytes_per_second * fraction)
        computing = flops / self._rate(product)
        return max(reading, computing) * _MICROSECONDS / self._share

    def _rate(self, product: Product) -> float:
        """Operations a second that products of this kind reach. What the hardware cannot multiply is unpacked."""
        constants, flops = self.constants, self.accelerator.flops
        fraction = constants.expert_flops_fraction if product.experts else constants.flops_fraction
        narrow = {Width.FP8: flops.fp8, Width.INT8: flops.int8}.get(product.width, 0)
        if narrow:
            return narrow * fraction
        full = product.width is Width.FULL
        return flops.bf16 * fraction * (1 if full else constants.unpacking_flops_fraction)

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
        speed = max(1, link.bytes_per_second_per_accelerator) * self.constants.link_fraction
        latency = self.constants.all_reduce_microseconds[link.kind]
        total = 0.0
        if self.shape.tensor > 1:
            ranks = self.shape.tensor
            # A ring moves 2 · (n - 1) / n of the data over each link; latency grows with the hops of a tree.
            moved = 2 * (ranks - 1) / ranks * size / speed * _MICROSECONDS
            total += self.work.reduced_layers * (latency * log2(ranks) + moved)
        if self.work.exchanged_layers:
            sent = 2 * size * self.work.experts_per_token / speed * _MICROSECONDS
            total += self.work.exchanged_layers * (2 * latency * log2(self.shape.data) + sent)
        if self.shape.pipeline > 1:
            total += (self.shape.pipeline - 1) * self._handover(size)
        return total

    def _handover(self, size: int) -> float:
        if not self.across_nodes:
            link = self.accelerator.link
            speed = max(1, link.bytes_per_second_per_accelerator)
            latency = self.constants.all_reduce_microseconds[link.kind]
        else:
            speed, latency = self.accelerator.node_link_bytes_per_second, self.constants.node_microseconds
        return latency + size / (speed * self.constants.link_fraction) * _MICROSECONDS
