"""Which model a name asks for, and which come next when it cannot answer. Pure; built once for each route table.

A name is a model's own (`qwen32b`, `team/qwen32b`), one of its adapters' (`qwen32b:sql`), an alias, or a version: an
alias `qwen32b@awq` is the version `awq` of `qwen32b`. The bare name belongs to whoever has it; where nobody does, to the first of its versions in the
order of `namespace/name`. A tenant's own models come before others of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from plinth.domain.traffic import Availability, ModelRoute
from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.routing.names import model_not_found

VERSION = "@"
_MOST_FALLBACKS = 8
"""Each one tried costs the client time; a longer list helps nobody."""
_NOWHERE = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a name leads to."""

    route: ModelRoute
    chain: tuple[ModelRoute, ...]
    """The route, then its fallbacks of the same task."""

    def next(self, allowed: Callable[[ModelRoute], bool], tried: Collection[str] = ()) -> ModelRoute | None:
        """The first route that may be asked now: not tried, not refusing, allowed to the caller.

        Asked at the start, and again when a model's replicas all failed or its queue cannot meet the deadline.
        """
        for route in self.chain:
            if route.model not in tried and route.availability is Availability.AVAILABLE and allowed(route):
                return route
        return None


class NameIndex:
    """All names of one table."""

    __slots__ = ("_found",)

    def __init__(self, routes: Iterable[ModelRoute] = ()) -> None:
        in_order = sorted(routes, key=lambda route: route.model)
        holders = _holders(in_order)
        self._found = {at: Target(route, _chain(route, holders)) for at, route in holders.items()}

    def find(self, asked: str, tenant: str = _NOWHERE) -> Target | None:
        """What the name means to a caller of this tenant."""
        return self._found.get((tenant, asked)) or self._found.get((_NOWHERE, asked))

    def missing(self, asked: str, listed: list[str], allowed: Callable[[ModelRoute], bool]) -> Refusal:
        """The refusal for a name that leads nowhere: its versions that the caller may ask, else the names `listed`."""
        base = asked.partition(VERSION)[0]
        versions = {
            name
            for (_, name), target in self._found.items()
            if name.partition(VERSION)[0] == base and allowed(target.route)
        }
        return model_not_found(asked, sorted(versions) or listed)


_Holders = dict[tuple[str, str], ModelRoute]
"""Who has a name, by (tenant, name); the tenant is empty for everyone."""


def _holders(in_order: list[ModelRoute]) -> _Holders:
    holders: _Holders = {}
    bare: _Holders = {}
    # Own names before aliases: no alias takes a name from the model that is called so.
    for route in in_order:
        _give(holders, route, (*route.names, *route.adapters))
    for route in in_order:
        _give(holders, route, route.aliases)
        _give(bare, route, [name.partition(VERSION)[0] for name in route.aliases if VERSION in name])
    return bare | holders


def _give(holders: _Holders, route: ModelRoute, names: Iterable[str]) -> None:
    tenant = route.model.partition("/")[0]
    for name in names:
        holders.setdefault((_NOWHERE, name), route)
        holders.setdefault((tenant, name), route)


def _chain(route: ModelRoute, holders: _Holders) -> tuple[ModelRoute, ...]:
    """The route and its fallbacks, theirs after them, each once."""
    chain = [route]
    for link in chain:  # grows while it is read
        tenant = link.model.partition("/")[0]
        for name in link.fallbacks:
            following = holders.get((tenant, name)) or holders.get((_NOWHERE, name))
            if following is not None and following.task == route.task and following not in chain:
                chain.append(following)
    return tuple(chain[: _MOST_FALLBACKS + 1])
