"""Whether a request may pass its limits: all of them asked first, then all counted; settled when its use is known.

In the pipeline after the key is known and before the request is queued. One `Limiter` lives in a gateway process,
one `Account` for each key on each model it uses, one counter for each thing that is counted. Pure; `now` is seconds
of a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from plinth.domain.access import Limit
from plinth.gateway.access.terms import AppliedLimit, Terms
from plinth.gateway.limits.answers import (
    REQUEST_HEADERS,
    TOKEN_HEADERS,
    Denial,
    Shortage,
    deny,
    deny_unseen,
    limit_lines,
)
from plinth.gateway.limits.counters import Counter, make_counter
from plinth.gateway.limits.lease import ASK, DENIED

COUNTERS_KEPT: Final = 65_536
"""Beyond this those which count nothing any more are forgotten."""
ACCOUNTS_KEPT: Final = 16_384
LOOK_SECONDS: Final = 0.25
"""Between two looks at which of an account's limits is nearest to its end."""
TOLD_SECONDS: Final = 0.25
"""So old may be what clients are told of limits that are ample: a share of them that nobody notices is used meanwhile."""
AMPLE: Final = 100_000
GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly, however many there are."""
_INDEX: Final = {"requests": 0, "inputTokens": 1, "outputTokens": 2, "totalTokens": 3, "concurrency": 4}
Costs = list[int]
"""Five, in the order of `_INDEX`."""


class CounterSource(Protocol):
    """Where counters are shared, in the place of local ones."""

    __slots__ = ()

    def make_lease(self, name: str, limit: Limit, *, tenant: str, lives_alone: bool) -> Counter:
        """A new lease of a limit."""

    def touch(self, account: Account) -> None:
        """Its leases have been used."""


class Meter:
    """One limit as it applies to an account; the counter may be shared with other accounts."""

    __slots__ = ("counter", "index", "limit", "policy")

    def __init__(self, limit: Limit, policy: str, counter: Counter) -> None:
        self.limit = limit
        self.policy = policy
        self.counter = counter
        self.index = _INDEX[limit.dimension]


class Kind:
    """An account's counters of one kind of cost."""

    __slots__ = ("counters", "index")

    def __init__(self, index: int, counters: list[Counter]) -> None:
        self.index = index
        self.counters = counters


class Account:
    """All limits that hold for one key on one model."""

    __slots__ = (
        "_most_output",
        "_most_total",
        "kinds",
        "lines",
        "look_at",
        "meters",
        "nearest",
        "shown",
        "tell_at",
    )

    def __init__(self, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self.kinds = [
            Kind(index, counters)
            for index in range(len(_INDEX))
            if (counters := [meter.counter for meter in meters if meter.index == index])
        ]
        self.shown = tuple(
            (names, these)
            for names, indexes in ((REQUEST_HEADERS, (0,)), (TOKEN_HEADERS, (1, 2, 3)))
            if (these := tuple(meter.counter for meter in meters if meter.index in indexes))
        )
        """Counters whose state clients are told, with the names of the headers."""
        self.nearest: list[tuple[tuple[bytes, bytes, bytes], Counter]] = []
        """Of each kind the one that is nearest to its end, when last looked."""
        self.look_at = 0.0
        self.lines = b""
        """What clients were told last."""
        self.tell_at = 0.0
        self._most_output = min((m.limit.amount for m in meters if m.index == 2), default=None)  # noqa: PLR2004
        self._most_total = min((m.limit.amount for m in meters if m.index == 3), default=None)  # noqa: PLR2004

    def costs(self, input_tokens: int, output_tokens: int) -> Costs:
        """What a request is counted as. No answer is expected to be longer than its limit lets any answer be."""
        if self._most_output is not None and output_tokens > self._most_output:
            output_tokens = self._most_output
        total = input_tokens + output_tokens
        if self._most_total is not None and total > self._most_total:
            total = max(input_tokens, self._most_total)
        return [1, input_tokens, output_tokens, total, 1]

    def take(self, costs: Costs, now: float) -> bool:
        """Counts the request in every counter, or, if one has no room, in none."""
        for kind in self.kinds:
            cost = costs[kind.index]
            if cost:
                for counter in kind.counters:
                    if not counter.take(cost, now):
                        self._untake(costs, counter)
                        return False
        return True

    def is_ample(self, now: float) -> bool:
        """Whether every limit that clients are told of is large and has half of it left."""
        return all(
            counter.amount >= AMPLE and 2 * counter.used(now) < counter.amount for _, counter in self.nearest
        )

    def _untake(self, costs: Costs, culprit: Counter) -> None:
        for kind in self.kinds:
            cost = costs[kind.index]
            for counter in kind.counters:
                if counter is culprit:
                    return
                if cost:
                    counter.untake(cost)


class Reservation:
    """What has been counted for one request. Ends by `settle` or `cancel`, once."""

    __slots__ = ("account", "costs", "taken_at")

    def __init__(self, account: Account, costs: Costs, taken_at: float) -> None:
        self.account = account
        self.costs = costs
        self.taken_at = taken_at


def _nearest(counters: tuple[Counter, ...], now: float) -> Counter:
    return max(counters, key=lambda each: each.used(now) / each.amount if each.amount else 1.0)


class Limiter:
    """All counters of a gateway process."""

    def __init__(
        self,
        shared: CounterSource | None = None,
        *,
        counters_kept: int = COUNTERS_KEPT,
        accounts_kept: int = ACCOUNTS_KEPT,
    ) -> None:
        """Without `shared` this process is the only one that counts."""
        self._shared = shared
        self._accounts: dict[tuple[str, str], Account] = {}
        self._counters: dict[str, Counter] = {}
        self._refusals = 0.0
        self._counters_kept = self._most_counters = counters_kept
        self._accounts_kept = accounts_kept

    def counters(self) -> Iterable[Counter]:
        """All that is counted in this process."""
        return self._counters.values()

    def forget_accounts(self) -> None:
        """A new access table has come: limits are read anew, what was used stays counted."""
        self._accounts.clear()

    def account(self, key: str, model: str, *, tenant: str, terms: Terms, now: float) -> Account:
        """The limits of a key on a model; `terms` are what its policies say of the two."""
        account = self._accounts.get((key, model))
        if account is not None:
            return account
        if len(self._counters) > self._most_counters:
            self._forget_idle(now)
        lives_alone = terms.on_backend_away == "Allow"
        account = Account(
            tuple(
                Meter(
                    applied.limit,
                    applied.scope_id.partition("|")[0],
                    self._counter(applied, tenant=tenant, lives_alone=lives_alone),
                )
                for applied in terms.limits
            )
        )
        self._accounts[key, model] = account
        if len(self._accounts) > self._accounts_kept:
            del self._accounts[next(iter(self._accounts))]
        return account

    def admit(
        self, account: Account, input_tokens: int, output_tokens: int, now: float
    ) -> Reservation | Denial | None:
        """Counts a request of so many tokens, estimated, or says why not. None: only the shared counters know."""
        costs = account.costs(input_tokens, output_tokens)
        if account.take(costs, now):
            if self._shared is not None:
                self._shared.touch(account)
            return Reservation(account, costs, now)
        return self._refuse(account, costs, now)

    def settle(self, reservation: Reservation, input_tokens: int, output_tokens: int, now: float) -> None:
        """The request has ended and used so many tokens."""
        total = input_tokens + output_tokens
        self._change(reservation, [1, input_tokens, output_tokens, total, 0], now)

    def cancel(self, reservation: Reservation, now: float) -> None:
        """The request reached no replica: nothing of it counts."""
        self._change(reservation, [0, 0, 0, 0, 0], now)

    def headers(self, account: Account, now: float) -> bytes:
        """The lines `x-ratelimit-*` of the request limit and of the token limit that are nearest to their ends."""
        if now < account.tell_at:
            return account.lines
        if now >= account.look_at:
            account.look_at = now + LOOK_SECONDS
            account.nearest = [(names, _nearest(counters, now)) for names, counters in account.shown]
        lines = b""
        for names, counter in account.nearest:
            lines += limit_lines(names, counter.amount, counter.used(now), counter.empty_after(now))
        if account.is_ample(now):
            account.lines, account.tell_at = lines, now + TOLD_SECONDS
        return lines

    def _change(self, reservation: Reservation, used: Costs, now: float) -> None:
        counted, account = reservation.costs, reservation.account
        for kind in account.kinds:
            more = used[kind.index] - counted[kind.index]
            if more > 0:
                for counter in kind.counters:
                    counter.add(more, now)
            elif more < 0:
                for counter in kind.counters:
                    counter.give_back(-more, reservation.taken_at, now)
        if self._shared is not None:
            self._shared.touch(account)

    def _refuse(self, account: Account, costs: Costs, now: float) -> Denial | None:
        culprit, longest = None, 0.0
        for meter in account.meters:
            cost = costs[meter.index]
            wait = meter.counter.wait(cost, now) if cost else 0.0
            if wait == DENIED:
                return deny_unseen(meter.policy)
            if wait != ASK and wait > longest:
                culprit, longest = meter, wait
        if culprit is None:
            return None
        self._refusals = (self._refusals + GOLDEN) % 1.0
        shortage = Shortage(
            limit=culprit.limit,
            policy=culprit.policy,
            used=culprit.counter.used(now),
            cost=costs[culprit.index],
            wait=longest,
        )
        return deny(shortage, self._refusals)

    def _counter(self, applied: AppliedLimit, *, tenant: str, lives_alone: bool) -> Counter:
        limit = applied.limit
        name = f"{applied.scope_id}|{limit.dimension}|{limit.window_seconds}"
        counter = self._counters.get(name)
        if counter is None:
            if self._shared is None:
                counter = make_counter(limit, limit.amount)
            else:
                counter = self._shared.make_lease(name, limit, tenant=tenant, lives_alone=lives_alone)
            self._counters[name] = counter
        counter.amount = float(limit.amount)
        return counter

    def _forget_idle(self, now: float) -> None:
        held = {meter.counter for account in self._accounts.values() for meter in account.meters}
        for name, counter in list(self._counters.items()):
            if counter not in held and not counter.used(now):
                del self._counters[name]
        self._most_counters = max(
            self._counters_kept, 2 * len(self._counters)
        )  # not to look at all of them each time
