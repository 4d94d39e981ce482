"""Why a replica has no place: what it needs, what is free of it, who holds the rest, and what would free it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from math import inf
from typing import NamedTuple

from plinth.domain.placing.clearing import Dearness, Rule, dearness_of, find_way, scopes_of
from plinth.domain.placing.demands import WHOLE, Demand, Option
from plinth.domain.placing.hosts import Hold
from plinth.domain.placing.packing import Wanted
from plinth.domain.placing.room import Room
from plinth.domain.quantities import format_bytes, list_some, plural

HOLDERS = 5
"""As many holders are named; of the rest, the number."""
LOOKED_AT = 4
"""The hosts or racks with most free, among which a remedy is looked for."""


class _Told(NamedTuple):
    """A sentence, and the models that it tells to go."""

    text: str
    goers: frozenset[str]


class Explainer:
    """Sentences about one pass's room; equal shapes share one, unless it tells a model to do without its own."""

    def __init__(self, room: Room, demands: Mapping[str, Demand]) -> None:
        self.room, self.demands = room, demands
        self._holders: dict[str, str] = {}
        self._known: dict[object, _Told] = {}

    def explain(self, wanted: Wanted) -> str:
        """One clause for each pool that the replica may have."""
        key, model = (wanted.shapes, wanted.demand.priority, wanted.is_needed), wanted.demand.model
        known = self._known.get(key) or self._known.setdefault(key, self._tell(wanted))
        if model in known.goers:
            known = self._known.get((key, model)) or self._known.setdefault((key, model), self._tell(wanted))
        return known.text

    def _tell(self, wanted: Wanted) -> _Told:
        goers = set[str]()
        clauses = [self._clause(wanted, option, goers) for option in wanted.demand.options]
        return _Told("; or ".join(clauses), frozenset(goers))

    def _clause(self, wanted: Wanted, option: Option, told: set[str]) -> str:
        pool, gang = option.pool, option.gang
        needs = f"a replica needs {gang.describe()} of pool {pool}"
        if not self.room.hosts_of(pool):
            return f"{needs}, which has no hosts"
        if pool not in self._holders:
            self._holders[pool] = self._held(option)
        held = f"; held by {self._holders[pool]}" if self._holders[pool] else ""
        return f"{needs}, {self._free(option)}{held}; {self._remedy(wanted, option, told)}"

    def _free(self, option: Option) -> str:
        gang, stands = option.gang, [self.room.stands[name] for name in self.room.hosts_of(option.pool)]
        if gang.is_whole:
            return f"{max(max(stand.whole_free) for stand in stands)} free at most"
        most = max(0, *(max(stand.free, default=0) for stand in stands))
        return f"{format_bytes(most) if gang.spread else f'{most} thousandths'} free at most"

    def _held(self, option: Option) -> str:
        """Who holds most of the pool: accelerators, or memory where that is what counts."""
        amounts = Counter[str]()
        for name in self.room.hosts_of(option.pool):
            for hold, accelerators in self.room.stands[name].holds.values():
                amounts[hold.model] += len(accelerators) * hold.gang.share
        largest = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{model} ({_amount(option, amount)})" for model, amount in largest[:HOLDERS]]
        rest = len(largest) - HOLDERS
        return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")

    def _remedy(self, wanted: Wanted, option: Option, told: set[str]) -> str:
        """The fewest who would have to go, and why they stay."""
        gang = option.gang
        stands = [self.room.stands[name] for name in self.room.hosts_of(option.pool)]
        largest = max(len(domain) for stand in stands for domain in stand.domains)
        if gang.accelerators > largest:
            return f"its largest link domain has {plural(largest, 'accelerator')}: only a larger one would do"
        scopes = islice(scopes_of(self.room, option), LOOKED_AT)
        rule = Rule(lambda holds: self._everyone(wanted, holds))
        ways = [way for scope in scopes if (way := find_way(self.room, scope, gang, rule))]
        if not ways:
            return "it has not so much in all: only more hosts would do"
        goers = min(ways, key=lambda way: way.cost).goers
        if not goers:
            return "others have just made room for one, in the next pass"
        told |= {hold.model for hold in goers}
        who = list_some([hold.replica for hold in goers], HOLDERS)
        return f"one would fit without {who} ({self._why_it_stays(wanted, goers[0])}), or on one more host"

    def _everyone(self, wanted: Wanted, holds: Iterable[Hold]) -> Iterator[tuple[Dearness, Hold]]:
        """All of them; its own model's last, for nothing would be won."""
        for hold in holds:
            demand = self.demands.get(hold.model)
            known = demand is not None and demand is not wanted.demand
            yield dearness_of(hold, demand.priority if demand and known else inf), hold

    def _why_it_stays(self, wanted: Wanted, hold: Hold) -> str:
        demand = self.demands.get(hold.model)
        if demand is wanted.demand:
            return "of the same model"
        if demand is None:
            return "nobody can say what may displace it"
        if demand.priority >= wanted.demand.priority:
            return f"its priority {demand.priority} is not below {wanted.demand.priority}"
        return "its model needs it, and only load asks for this one"


def _amount(option: Option, amount: int) -> str:
    if option.gang.spread:
        return format_bytes(amount)
    whole, rest = divmod(amount, WHOLE)
    return plural(whole, "accelerator") if rest == 0 else f"{whole}.{rest:03} accelerators"
