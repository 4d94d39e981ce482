"""The fleet as placement sees it: nodes become hosts, slots become holds, a target becomes an option.

A node of an accelerated pool is a host by its accelerators; one of a CPU pool is another host by its memory. What is
being emptied is in no pool: it holds what it holds, and takes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from plinth.domain.fleet import Engine, Needs, Node, NodeState, Slot, SlotName, SlotPhase
from plinth.domain.placing.demands import Gang, Near, Option
from plinth.domain.placing.hosts import Hold, Host, Part, Standing
from plinth.domain.placing.stands import Stand
from plinth.domain.pools import Pool, has_engine, stated_link_domain

RACK_LABELS = ("plinth.dev/rack", "fabric.topograph.run/tier-0", "network.topology.nvidia.com/leaf")
"""Node labels that name the rack: ours, else those of NVIDIA's Topograph, now and before 1.0, for the first switch
(https://docs.nvidia.com/topograph/reference/node-labels-and-annotations)."""
MEMORY = " (memory)"
"""Ends the name of a host that counts a node's memory."""


def pool_key(pool: str, engine: Engine) -> str:
    """The name under which replicas of an engine ask for a pool's hosts."""
    return f"{pool}/{engine}"


def option_of(pool: Pool, engine: Engine, needs: Needs) -> Option:
    """What one replica takes."""
    return Option(pool_key(pool.name, engine), _gang(needs))


def host_name(node: Node, pool: Pool) -> str:
    """The host that a node is to a pool: by its memory, or by its accelerators."""
    return node.node_id + MEMORY if pool.is_cpu else node.node_id


def node_id_of(host: str) -> str:
    """The node that a host stands for."""
    return host.removesuffix(MEMORY)


def hosts_of(pools: Iterable[Pool], link_domains: Mapping[str, int]) -> dict[str, Host]:
    """All pools' hosts by name. `link_domains`: accelerators of one link domain, by kind of accelerator."""
    found: dict[str, Host] = {}
    for pool in pools:
        for node in (*pool.nodes, *pool.retiring):
            retiring = node.state is NodeState.RETIRING
            keys = [pool_key(pool.name, each) for each in Engine if has_engine(node, each) and not retiring]
            host = _memory_host(node, pool) if pool.is_cpu else _accelerator_host(node, link_domains)
            if host is not None:
                known = found.get(host.name, host)
                # Pools that share a node's memory may differ in how much of it they use: the smaller share counts.
                whole = min(known.whole, host.whole)
                found[host.name] = known._replace(pools=(*known.pools, *keys), whole=whole)
    return found


def _memory_host(node: Node, pool: Pool) -> Host:
    whole = pool.usable_memory_bytes(node)
    return Host(host_name(node, pool), (), (1,), _rack(node), _standing(node), whole)


def _accelerator_host(node: Node, link_domains: Mapping[str, int]) -> Host | None:
    if node.accelerators == 0:
        return None
    size = stated_link_domain(node) or link_domains.get(node.accelerator, 0)
    whole, rest = divmod(node.accelerators, size or node.accelerators)
    domains = (size or node.accelerators,) * whole + ((rest,) if rest else ())
    return Host(node.node_id, (), domains, _rack(node), _standing(node))


def _rack(node: Node) -> str:
    return next((node.labels[label] for label in RACK_LABELS if label in node.labels), "")


def _standing(node: Node) -> Standing:
    if node.state is not NodeState.POTENTIAL:
        return Standing.PRESENT
    return Standing.COMING if node.worker else Standing.POSSIBLE


class Hosts:
    """The hosts found, kept from pass to pass: while no node is another, none is looked at."""

    def __init__(self) -> None:
        self._basis: tuple[object, ...] = ()
        self._found: Mapping[str, Host] = {}

    def of(self, pools: Collection[Pool], link_domains: Mapping[str, int]) -> Mapping[str, Host]:
        """As `hosts_of` has them."""
        facts = (
            (pool.name, pool.is_cpu, pool.utilization_percent, pool.nodes, pool.retiring) for pool in pools
        )
        basis = (link_domains, *facts)
        if basis != self._basis:
            self._basis, self._found = basis, hosts_of(pools, link_domains)
        return self._found


class Holdings:
    """The holds of the slots found, kept from pass to pass; a host whose slots are as they were is not looked at.

    A slot that was told its accelerators holds those. Which the others have nobody says: they are laid out by name,
    each where it fits best.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Slot, Host, Hold]] = {}
        """By the slot's identity: one that changed is another object."""
        self._hosts: Mapping[str, Host] = {}
        self._fates: tuple[frozenset[SlotName], frozenset[SlotName]] = (frozenset(), frozenset())
        self._known: dict[str, tuple[Host, tuple[Hold, ...], tuple[int, ...], tuple[Hold, ...]]] = {}
        """By host: its holds without accelerators, those that others were told, and its holds with their own."""

    def of(
        self,
        slots: Iterable[Slot],
        hosts: Mapping[str, Host],
        *,
        leaving: Collection[SlotName],
        fixed: Collection[SlotName] = (),
    ) -> dict[str, Hold]:
        """Who holds what.

        `leaving`: slots that drain or are being moved; those that stop are known to leave. `fixed`: slots whose like
        could not be started elsewhere.
        """
        on: dict[str, list[Hold]] = {}
        told: dict[str, Hold] = {}
        known, self._seen = self._seen if hosts == self._hosts else {}, {}
        fates = frozenset(leaving), frozenset(fixed)
        changed = (fates[0] ^ self._fates[0]) | (fates[1] ^ self._fates[1])
        self._hosts, self._fates = hosts, fates
        for slot in slots:
            found = known.get(id(slot))
            if found is None or (changed and slot.name in changed):
                found = _seen_on(hosts, slot, leaves=slot.name in leaving, movable=slot.name not in fixed)
            if found is None:
                continue
            self._seen[id(slot)] = found
            _, host, hold = found
            if hold.place:
                told[hold.replica] = hold
            else:
                on.setdefault(host.name, []).append(hold)
        taken = _taken(told.values(), on)
        self._known = {
            name: self._laid_out(hosts[name], tuple(sorted(holds)), taken[name]) for name, holds in on.items()
        }
        return told | {hold.replica: hold for *_, holds in self._known.values() for hold in holds}

    def _laid_out(
        self, host: Host, holds: tuple[Hold, ...], taken: tuple[int, ...]
    ) -> tuple[Host, tuple[Hold, ...], tuple[int, ...], tuple[Hold, ...]]:
        known = self._known.get(host.name)
        if known is not None and known[:3] == (host, holds, taken):
            return known
        return host, holds, taken, tuple(_lay_out(host, holds, taken))


def _seen_on(
    hosts: Mapping[str, Host], slot: Slot, *, leaves: bool, movable: bool
) -> tuple[Slot, Host, Hold] | None:
    """The slot's host and hold, its place still to be found where the slot was told no accelerators."""
    names = slot.nodes if slot.needs.accelerators > 0 else (slot.nodes[0] + MEMORY,)
    host = next((hosts[name] for name in names if name in hosts), None)
    if host is None:
        return None
    stops = slot.phase is SlotPhase.STOPPING
    return slot, host, _hold(slot, host)._replace(leaving=leaves or stops, movable=movable)


def _gang(needs: Needs) -> Gang:
    """A part for each node, or on one node for each stage."""
    if needs.nodes > 1:
        return Gang(needs.nodes, needs.accelerators)
    if needs.stages > 1:
        return Gang(needs.stages, needs.accelerators // needs.stages, within=Near.HOST)
    if needs.accelerators > 0:
        return Gang(1, needs.accelerators)
    return Gang(1, 1, share=needs.memory_bytes, spread=True)


def _hold(slot: Slot, host: Host) -> Hold:
    """Of an unreadable slot nobody knows what pool would do."""
    keys = [key for key in host.pools if slot.spec is not None and key.endswith(f"/{slot.spec.engine}")]
    gang = _gang(slot.needs)
    return Hold(
        replica=str(slot.name),
        model=str(slot.name.model),
        pool=keys[0] if keys else "",
        gang=gang,
        place=tuple(_told_parts(slot, gang, sum(host.domains))) if slot.is_numbered else (),
        since=slot.since,
    )


def _told_parts(slot: Slot, gang: Gang, number: int) -> Iterator[Part]:
    """The accelerators that the slot was told, by the parts of its gang. Of so many a node has, none is beyond."""
    for node_id, indices in slot.place:
        there = [each for each in indices if 0 <= each < number]
        for at in range(0, len(there), gang.accelerators):
            yield Part(node_id, tuple(there[at : at + gang.accelerators]))


def _taken(told: Iterable[Hold], hosts: Collection[str]) -> Mapping[str, tuple[int, ...]]:
    """Of each of these hosts, the accelerators that slots were told."""
    found: dict[str, list[int]] = {name: [] for name in hosts}
    for part in (part for hold in told for part in hold.place) if found else ():
        if part.host in found:
            found[part.host] += part.accelerators
    return {name: tuple(sorted(each)) for name, each in found.items()}


def _lay_out(host: Host, holds: Iterable[Hold], taken: Iterable[int]) -> Iterator[Hold]:
    """Each in the smallest gap that takes it; more than there is, where most is free."""
    stand = Stand(host)
    stand.change(taken, -host.whole)
    for hold in holds:
        able = [
            (stand.whole_free[number], number)
            for number in range(len(stand.domains))
            if hold.gang.parts == 1 and stand.capacity(number, hold.gang) > 0
        ]
        if able:
            part = stand.parts(min(able)[1], hold.gang, 1)[0]
        else:
            roomiest = sorted(range(len(stand.free)), key=lambda each: (-stand.free[each], each))
            part = Part(host.name, tuple(sorted(roomiest[: hold.gang.total])))
        stand.change(part.accelerators, -hold.gang.share)
        yield hold._replace(place=(part,))
