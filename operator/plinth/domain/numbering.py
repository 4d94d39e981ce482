"""Where accelerators are given out by index, and where Ray gives them out itself: asked before places are given.

A replica that an earlier version deployed, or whose arguments Ray has forgotten, was told no indices: Ray chose, and
only Ray knows which. Beside it Ray goes on choosing, for an index given out by us could be one that it holds. Where
both kinds met on one node, Ray, which does not know our indices, could hand out one of ours: nothing new goes there
until either kind is gone.

    slots -> Numbering -> hosts that take something new; places -> SlotPlace of a new replica
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, groupby

from plinth.domain.fleet import Slot, SlotPlace
from plinth.domain.placing.hosts import Host, Part, Place
from plinth.domain.placing.view import MEMORY, node_id_of


@dataclass(frozen=True)
class Numbering:
    """The nodes with replicas of which nobody but Ray knows what they hold."""

    ours: frozenset[str]
    """Nodes with replicas that were told their indices."""
    rays: frozenset[str]
    """Nodes with replicas that were not."""

    def open_hosts(self, hosts: Mapping[str, Host]) -> Mapping[str, Host]:
        """The hosts, those that must take nothing new in no pool."""
        mixed = self.ours & self.rays & hosts.keys()
        return {**hosts, **{name: hosts[name]._replace(pools=()) for name in mixed}} if mixed else hosts

    def told(self, place: Place) -> tuple[SlotPlace, ...]:
        """What a new replica is told of its place: all parts of a node together, stage by stage."""
        if len(place) == 1:
            return (SlotPlace(node_id_of(place[0].host), self._indices(place[0].host, place)),)
        order = list(dict.fromkeys(part.host for part in place))
        parts = sorted(place, key=lambda part: order.index(part.host))
        return tuple(
            SlotPlace(node_id_of(host), self._indices(host, there))
            for host, there in groupby(parts, key=lambda part: part.host)
        )

    def _indices(self, host: str, parts: Iterable[Part]) -> tuple[int, ...]:
        if host.endswith(MEMORY) or host in self.rays:
            return ()
        return tuple(chain.from_iterable(part.accelerators for part in parts))


def number(slots: Iterable[Slot]) -> Numbering:
    """Who knows what the slots hold. One that takes neither accelerators nor memory is one whose needs are forgotten."""
    ours, rays = set[str](), set[str]()
    for slot in slots:
        if slot.needs.accelerators or not slot.needs.memory_bytes:
            (ours if slot.is_numbered else rays).update(slot.nodes)
    return Numbering(frozenset(ours), frozenset(rays))
