"""Routing of one model's requests: what the data path calls, in this order, for each attempt. Pure.

    placement = router.place(standings, prompt)   # None: no room, the request is held
    router.take(placement, now)                   # as the request's bytes leave
    router.answered(placement, now)               # at the first byte of the answer
    router.ended(placement, ...)                  # always, whatever the end

and, once a second and off the data path, `router.review(standings, now)`.

`now` is monotonic, in seconds. Apart from accelerators' faults, which the table tells, all that routing knows comes from these
calls: no engine is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median
from typing import Final

from plinth.domain.traffic import Strategy
from plinth.gateway.routing.affinity import Affinity
from plinth.gateway.routing.beliefs import CacheBeliefs
from plinth.gateway.routing.blocks import BLOCK_TOKENS
from plinth.gateway.routing.choice import Standing, with_room
from plinth.gateway.routing.ejection import Ejection, Ejector
from plinth.gateway.routing.pace import FIRST_RATE, Pace, settle
from plinth.gateway.routing.placement import Placement, Prompt
from plinth.gateway.routing.scores import kv_barrier
from plinth.gateway.routing.strategies import make_picker

SUPPOSED_KV_TOKENS: Final = 500_000
"""Where nobody knows what a replica's KV cache holds: about that of a 7B model on an 80 GB accelerator."""


class Router:
    """One model's beliefs and strategy."""

    def __init__(
        self, strategy: Strategy = Strategy.EXPECTED_TTFT, *, block_tokens: int = BLOCK_TOKENS
    ) -> None:
        self.beliefs = CacheBeliefs()
        self.affinity = Affinity()
        self._strategy = strategy
        self._block_tokens = block_tokens
        self._joined: dict[str, Standing] = {}
        self._picker = make_picker(strategy, (), self.affinity)
        self._ejector = Ejector()

    def configure(self, strategy: Strategy) -> None:
        """Takes over what a newer table says; what was learnt stays."""
        if strategy is self._strategy:
            return
        self._strategy = strategy
        self._picker = make_picker(strategy, self._joined, self.affinity)

    def join(self, standing: Standing) -> None:
        """A replica comes. It is supposed to be as fast as those of its kind, or else as all, have proved."""
        capacity = (standing.kv_tokens or SUPPOSED_KV_TOKENS) // self._block_tokens
        standing.bit = self.beliefs.join(max(1, capacity))
        standing.pace.restart(self.usual_rate(standing.kind))
        self._joined[standing.slot] = standing
        self._picker = make_picker(self._strategy, self._joined, self.affinity)

    def leave(self, standing: Standing) -> None:
        """A replica goes; one that starts anew leaves and joins, since its cache is empty."""
        del self._joined[standing.slot]
        self.beliefs.leave(standing.bit)
        self.affinity.leave(standing.slot)
        standing.bit = 0
        self._picker = make_picker(self._strategy, self._joined, self.affinity)

    def usual_rate(self, kind: str) -> float:
        """Prompt tokens a second that replicas of a kind read, by the median of those that have answered."""
        known = [item for item in self._joined.values() if item.pace.answers]
        rates = [item.pace.rate for item in known if item.kind == kind] or [item.pace.rate for item in known]
        return median(rates) if rates else FIRST_RATE

    def place(
        self, standings: Sequence[Standing], prompt: Prompt, *, avoid: Collection[str] = ()
    ) -> Placement | None:
        """Where a prompt should go; None when all are busy or away. Replicas in `avoid` are the last resort."""
        roomy = with_room(standings)
        return self._pick(roomy, prompt, avoid) if roomy else None

    def take(self, placement: Placement, now: float) -> None:
        """The request goes to its replica: counts it there and remembers what the replica will hold."""
        standing, prompt = placement.standing, placement.prompt
        placement.sent_at = now
        placement.beside = standing.in_flight + standing.in_flight_elsewhere
        placement.on_trial = standing.trying > 0
        standing.count(1, placement.uncached)
        standing.kept_tokens += placement.uncached + prompt.output_tokens
        if standing.kv_tokens or standing.kv_seconds:
            standing.kv_seconds = kv_barrier(standing)
        placement.work = standing.pending_tokens + standing.pending_tokens_elsewhere
        if prompt.blocks and standing.bit:
            self.beliefs.remember(standing.bit, prompt.blocks)
        if prompt.session or prompt.adapter:
            self.affinity.remember(standing.slot, prompt)

    def heard(self, standing: Standing, blocks: Sequence[int]) -> None:
        """Another worker of this gateway has sent a prompt there; see `beliefs_shared`."""
        if standing.bit:
            self.beliefs.remember(standing.bit, blocks)

    def answered(self, placement: Placement, now: float) -> None:
        """The answer's first byte came: the prompt has been read."""
        if placement.answered:
            return
        placement.answered = True
        standing = placement.standing
        standing.count(0, -placement.uncached)
        if not placement.on_trial:
            standing.pace.saw_first_byte(
                work=placement.work, in_flight=placement.beside, seconds=now - placement.sent_at
            )

    def ended(self, placement: Placement, *, failed: bool = False, tpot: float | None = None) -> None:
        """The request has left its replica: `failed` through the replica's fault; `tpot`, seconds a token, if known."""
        standing = placement.standing
        standing.count(-1, 0 if placement.answered else -placement.uncached)
        standing.kept_tokens -= placement.uncached + placement.prompt.output_tokens
        if standing.kv_tokens or standing.kv_seconds:
            standing.kv_seconds = kv_barrier(standing)
        if failed:
            standing.pace.saw_failure()
        elif placement.answered:
            standing.pace.saw_end(tpot)

    def review(self, standings: Sequence[Standing], now: float) -> list[Ejection]:
        """Settles how fast replicas are, and takes out those out of line."""
        kinds: dict[str, list[Pace]] = {}
        for item in standings:
            kinds.setdefault(item.kind, []).append(item.pace)
        for paces in kinds.values():
            settle(paces)
        return self._ejector.review(standings, now)

    def _pick(self, roomy: Sequence[Standing], prompt: Prompt, avoid: Collection[str]) -> Placement:
        reach = self.beliefs.reach(prompt.blocks)
        standing = roomy[0] if len(roomy) == 1 else self._picker.pick(roomy, prompt, reach, avoid)
        return Placement(standing, prompt, prompt.uncached_tokens(reach.get(standing.bit, 0)))
