"""The dispatchers that `routing_trace` compares: the gateway's own code, and the rules of others written down anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile

from routing_trace_backends import BLOCK_TOKENS, Asked, Backend, Dispatcher

from plinth.domain.traffic import Strategy
from plinth.gateway.routing.beliefs_shared import RING_BYTES, CacheNews
from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.placement import Placement, Prompt
from plinth.gateway.routing.router import Router

UNBOUNDED = 1_000_000
"""Requests at a backend: the trace has no limit on them."""


class Gateway:
    """The production code: one worker, or several that see each other's load and hear each other's news.

    It knows of a backend what a gateway knows of a replica: how many tokens its KV cache holds. Its rate, and
    what is in its cache, are learnt from what was sent and when the first byte came.
    """

    def __init__(
        self,
        backends: list[Backend],
        *,
        strategy: Strategy = Strategy.EXPECTED_TTFT,
        workers: int = 1,
        tells: bool = True,
        known_share: float = 1.0,
    ) -> None:
        tokens = int(backends[0].cache_blocks * BLOCK_TOKENS * known_share)
        self._routers = [Router(strategy, block_tokens=BLOCK_TOKENS) for _ in range(workers)]
        self._fleets = [
            [Standing(slot=f"replica-{index}", concurrency=UNBOUNDED) for index in range(len(backends))]
            for _ in range(workers)
        ]
        for router, fleet in zip(self._routers, self._fleets, strict=True):
            for standing in fleet:
                standing.kv_tokens = tokens
                router.join(standing)
                standing.kv_tokens = 0  # the model under test fills no KV cache with running requests
        rings = [memoryview(bytearray(RING_BYTES)) for _ in range(workers)]
        self._news = [CacheNews(rings, own) for own in range(workers)]
        self._tells = tells
        self._placed: dict[int, tuple[int, Placement]] = {}
        self._requests = 0
        self._review_at = 0.0

    def send(self, asked: Asked, now: float) -> int:
        self._review(now)
        worker = self._requests % len(self._routers)
        self._requests += 1
        router, fleet = self._routers[worker], self._fleets[worker]
        if len(self._fleets) > 1:
            self._look(worker)
        prompt = Prompt(
            asked.tokens, asked.blocks, block_tokens=BLOCK_TOKENS, output_tokens=asked.output_tokens
        )
        placement = router.place(fleet, prompt)
        assert placement is not None
        router.take(placement, now)
        chosen = fleet.index(placement.standing)
        if self._tells:
            self._news[worker].tell(chosen, asked.blocks, now)
            self._news[worker].publish()
        self._placed[id(asked)] = worker, placement
        return chosen

    def first_byte(self, asked: Asked, now: float) -> None:
        worker, placement = self._placed[id(asked)]
        self._routers[worker].answered(placement, now)

    def ended(self, asked: Asked, now: float) -> None:
        del now
        worker, placement = self._placed.pop(id(asked))
        self._routers[worker].ended(placement, tpot=0.02)

    def _review(self, now: float) -> None:
        if now >= self._review_at:
            self._review_at = now + 1.0
            for router, fleet in zip(self._routers, self._fleets, strict=True):
                router.review(fleet, now)

    def _look(self, worker: int) -> None:
        fleet = self._fleets[worker]
        for index, standing in enumerate(fleet):
            others = [each[index] for each in self._fleets if each is not fleet]
            standing.in_flight_elsewhere = sum(each.in_flight for each in others)
            standing.pending_tokens_elsewhere = sum(each.pending_tokens for each in others)
        for index, blocks in self._news[worker].hear():
            self._routers[worker].heard(fleet[index], blocks)


class Rule(ABC):
    """A rule that reads exact loads and, where it has one, an exact cache: at least as well off as the real peer."""

    def __init__(self, backends: list[Backend]) -> None:
        self.backends = backends
        self.requests = [0] * len(backends)
        self.pending = [0] * len(backends)
        """Uncached prompt tokens sent and not yet read."""
        self._sent: dict[int, tuple[int, int]] = {}

    @abstractmethod
    def choose(self, asked: Asked) -> int:
        """The number of the backend that the rule gives it to."""

    def send(self, asked: Asked, now: float) -> int:
        del now
        chosen = self.choose(asked)
        uncached = self.uncached(chosen, asked)
        self.requests[chosen] += 1
        self.pending[chosen] += uncached
        self._sent[id(asked)] = chosen, uncached
        return chosen

    def first_byte(self, asked: Asked, now: float) -> None:
        del now
        chosen, uncached = self._sent[id(asked)]
        self.pending[chosen] -= uncached

    def ended(self, asked: Asked, now: float) -> None:
        del now
        self.requests[self._sent.pop(id(asked))[0]] -= 1

    def uncached(self, index: int, asked: Asked) -> int:
        return max(1, asked.tokens - self.backends[index].held(asked.blocks) * BLOCK_TOKENS)

    def least(self, cost: Callable[[int], float]) -> int:
        return min(range(len(self.backends)), key=cost)


class RoundRobin(Rule):
    def __init__(self, backends: list[Backend]) -> None:
        super().__init__(backends)
        self._turn = -1

    def choose(self, asked: Asked) -> int:
        del asked
        self._turn += 1
        return self._turn % len(self.backends)


class LeastRequests(Rule):
    def choose(self, asked: Asked) -> int:
        del asked
        return self.least(lambda index: self.requests[index])


class CacheAware(Rule):
    """SMG's and sglang's `cache_aware` with its defaults: match above 0.5, imbalance above 32 and 1.1 times.

    It matches against a tree of all that it sent, whose size also says where a prompt without a match goes.
    """

    def __init__(self, backends: list[Backend]) -> None:
        super().__init__(backends)
        self._trees: list[set[int]] = [set() for _ in backends]

    def choose(self, asked: Asked) -> int:
        chosen = self._choose(asked.blocks)
        self._trees[chosen].update(asked.blocks)
        return chosen

    def _choose(self, blocks: Sequence[int]) -> int:
        most, fewest = max(self.requests), min(self.requests)
        if most - fewest > 32 and most > 1.1 * fewest:
            return self.least(lambda index: self.requests[index])
        matched = [sum(1 for _ in takewhile(tree.__contains__, blocks)) for tree in self._trees]
        if max(matched) / len(blocks) > 0.5:
            return matched.index(max(matched))
        return self.least(lambda index: len(self._trees[index]))


class DynamoLike(Rule):
    """Dynamo's KV router: 4 x (pending prompt blocks, the request's own among them) + blocks being decoded."""

    def choose(self, asked: Asked) -> int:
        return self.least(
            lambda index: (
                4 * (self.pending[index] + self.uncached(index, asked)) / BLOCK_TOKENS + self.requests[index]
            )
        )


class PerfectKnowledge(Rule):
    """Least expected time to first token with the backends' own caches and rates in view."""

    def choose(self, asked: Asked) -> int:
        rate = self.backends[0].rate
        return self.least(
            lambda index: (
                (self.pending[index] + self.uncached(index, asked)) / rate + 0.002 * self.requests[index]
            )
        )


OWN = "least_expected_ttft"
PEERS: Mapping[str, Callable[[list[Backend]], Dispatcher]] = {
    "round_robin": RoundRobin,
    "least_requests": LeastRequests,
    "prefix_hash_bounded_load": partial(Gateway, strategy=Strategy.PREFIX_HASH),
    "smg_cache_aware_like": CacheAware,
    "dynamo_like": DynamoLike,
    "perfect_knowledge": PerfectKnowledge,
    "least_load": partial(Gateway, strategy=Strategy.LEAST_LOAD),
    "half_the_cache_size_known": partial(Gateway, known_share=0.5),
    "twice_the_cache_size_known": partial(Gateway, known_share=2.0),
    "4_workers": partial(Gateway, workers=4),
    "4_workers_beliefs_apart": partial(Gateway, workers=4, tells=False),
}
