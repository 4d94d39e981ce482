"""Which leases report when, and which requests wait for an answer: all of the sharing but the bytes. Pure.

Most requests are let through by what is in stock. One that finds too little waits for the next exchange, which
goes out at once. Leases that were used report besides: every 100 ms near the limit, once a second far from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from plinth.domain.access import Limit
from plinth.gateway.limits.admission import Account, CounterSource, Limiter, Reservation
from plinth.gateway.limits.answers import Denial
from plinth.gateway.limits.exchange import Exchange
from plinth.gateway.limits.lease import ASK, Backend, Lease

LEASES_AT_ONCE: Final = 50
"""In one exchange, so that the script stays below a millisecond for others who ask Redis."""
AHEAD: Final = 64
"""Waiting requests of an account that one exchange asks for."""

Decide = Callable[[Reservation | Denial], None]


class Waiting:
    """A request that waits for the shared counters. Gone from the queue once decided or withdrawn."""

    __slots__ = ("account", "decide", "input_tokens", "output_tokens", "since", "withdrawn")

    def __init__(
        self, account: Account, input_tokens: int, output_tokens: int, *, since: float, decide: Decide
    ) -> None:
        self.account = account
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.since = since
        self.decide = decide
        self.withdrawn = False
        """Its client has gone; `decide` is not called any more."""


class Sharing(CounterSource):
    """The leases of a gateway process."""

    def __init__(self, gateway: str) -> None:
        """`gateway` is unique for each start of each process: what an earlier one had leased is not ours."""
        self.gateway = gateway
        self.backend = Backend()
        self.limiter = Limiter(self)
        self._used: set[Account] = set()
        self._to_report: dict[Lease, None] = {}
        self._waiting: dict[Account, deque[Waiting]] = {}
        self._number = 0

    def make_lease(self, name: str, limit: Limit, *, tenant: str, lives_alone: bool) -> Lease:
        """A lease with nothing in stock."""
        return Lease(name, limit, self.backend, tenant=tenant, lives_alone=lives_alone)

    def touch(self, account: Account) -> None:
        """Its leases report at the next turn."""
        self._used.add(account)

    def wait(self, waiting: Waiting) -> None:
        """A request that `admit` could not decide; `decide` is called within the time limit of an exchange."""
        queue = self._waiting.get(waiting.account)
        if queue is None:
            queue = self._waiting[waiting.account] = deque()
        queue.append(waiting)

    def has_waiting(self) -> bool:
        """Whether requests wait for an answer."""
        return bool(self._waiting)

    def ask(self, now: float) -> Iterator[Exchange]:
        """One exchange for each account with waiting requests: all that they need or nothing."""
        for account, queue in self._waiting.items():
            first = account.costs(queue[0].input_tokens, queue[0].output_tokens)
            lacking: list[tuple[Lease, float, float]] = []
            for meter in account.meters:
                lease, need = meter.counter, first[meter.index]
                if isinstance(lease, Lease) and need and lease.wait(need, now) == ASK:
                    costs = [account.costs(w.input_tokens, w.output_tokens) for w in islice(queue, AHEAD)]
                    lacking.append((lease, need, sum(cost[meter.index] for cost in costs)))
            if lacking and not any(lease.asked for lease, _, _ in lacking):
                yield self._exchange(lacking, now)

    def report(self, now: float) -> Iterator[Exchange]:
        """Exchanges in which those leases report that were used, or hold something, and are due."""
        for account in self._used:
            for meter in account.meters:
                if isinstance(meter.counter, Lease):
                    self._to_report[meter.counter] = None
        self._used.clear()
        of_tenant: dict[str, list[tuple[Lease, float, float]]] = {}
        for lease in [lease for lease in self._to_report if lease.is_due(now)]:
            del self._to_report[lease]
            of_tenant.setdefault(lease.tenant, []).append((lease, 0.0, 0.0))
        for leases in of_tenant.values():
            for start in range(0, len(leases), LEASES_AT_ONCE):
                yield self._exchange(leases[start : start + LEASES_AT_ONCE], now)

    def report_all(self, now: float) -> Iterator[Exchange]:
        """As `report`, with every lease that counts anything: Redis may have lost what it knew of them."""
        for counter in self.limiter.counters():
            if isinstance(counter, Lease) and counter.counts(now):
                counter.make_due()
                self._to_report[counter] = None
        return self.report(now)

    def apply(self, exchange: Exchange, answer: list[int], now: float) -> None:
        """Takes an answer in and decides what can be decided.

        Raises:
            ValueError: the answer does not fit.
        """
        exchange.apply(answer, now)
        for lease in exchange.leases:
            if not lease.is_idle(now):
                self._to_report[lease] = None
        self.decide(now)

    def decide(self, now: float) -> None:
        """Decides those waiting requests that can be: by new stock, by a refusal, or since the backend is away."""
        for account, queue in list(self._waiting.items()):
            while queue:
                first = queue[0]
                if not first.withdrawn:
                    outcome = self.limiter.admit(account, first.input_tokens, first.output_tokens, now)
                    if outcome is None:
                        break
                    queue.popleft()
                    first.decide(outcome)
                else:
                    queue.popleft()
            if not queue:
                self._waiting.pop(account, None)

    def _exchange(self, leases: list[tuple[Lease, float, float]], now: float) -> Exchange:
        self._number += 1
        return Exchange(leases, gateway=self.gateway, number=self._number, now=now)
