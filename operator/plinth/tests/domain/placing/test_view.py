"""The fleet as placement sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.fleet import Engine, Needs, Node, NodeState, Slot, SlotPhase, SlotPlace
from plinth.domain.placing.demands import Gang, Near
from plinth.domain.placing.finding import find_place
from plinth.domain.placing.hosts import Hold, Host, Standing
from plinth.domain.placing.room import Room
from plinth.domain.placing.view import Holdings, hosts_of, node_id_of, option_of
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import make_node, make_pool, make_slot
from plinth.tests.domain.placing.placing_builders import shown


def pools_of(*nodes: Node) -> tuple[Pool, ...]:
    return resolve_pools((make_pool(),), nodes)


def holds_on(host: Host, *slots: Slot) -> dict[str, str]:
    holds = Holdings().of(slots, {host.name: host}, leaving=())
    return {name: shown(hold.place) for name, hold in holds.items()}


def test_a_node_is_one_link_domain_unless_its_label_or_its_kind_says_otherwise() -> None:
    labelled = make_node("b", accelerators=8, labels={"plinth.dev/link-domain-size": "4"})
    hosts = hosts_of(pools_of(make_node("a", accelerators=8), labelled), {})
    assert hosts["a"].domains == (8,)
    assert hosts["b"].domains == (4, 4)
    kind = make_node("a", accelerators=8).accelerator
    assert hosts_of(pools_of(make_node("a", accelerators=8)), {kind: 3})["a"].domains == (3, 3, 2)


def test_the_rack_is_told_by_our_label_else_by_topographs() -> None:
    leaf = {"network.topology.nvidia.com/leaf": "s1"}
    hosts = hosts_of(
        pools_of(
            make_node("a", accelerators=1, labels=leaf),
            make_node("b", accelerators=1, labels={**leaf, "plinth.dev/rack": "r7"}),
            make_node("c", accelerators=1),
        ),
        {},
    )
    assert [hosts[name].rack for name in "abc"] == ["s1", "r7", ""]


def test_a_host_is_in_the_pool_of_each_engine_that_its_node_has() -> None:
    one = make_node("a", accelerators=1, labels={"plinth.dev/engines": "VLLM"})
    hosts = hosts_of(pools_of(one, make_node("b", accelerators=1)), {})
    name = pools_of(one)[0].name
    assert hosts["a"].pools == (f"{name}/VLLM",)
    assert sorted(hosts["b"].pools) == [f"{name}/LlamaCpp", f"{name}/VLLM"]


def test_a_node_that_is_being_emptied_holds_what_it_holds_and_takes_nothing() -> None:
    node = replace(make_node("a", accelerators=2), state=NodeState.RETIRING)
    hosts = hosts_of(pools_of(node, make_node("b", accelerators=1)), {})
    assert hosts["a"].pools == ()
    assert holds_on(hosts["a"], make_slot(node_id="a", accelerators=1)) != {}


def test_workers_that_come_and_that_could_stand_behind_those_that_are_there() -> None:
    coming = replace(make_node("b", accelerators=1), state=NodeState.POTENTIAL, worker="pod")
    hosts = hosts_of(
        pools_of(make_node("a", accelerators=1), coming, replace(coming, node_id="c", worker="")), {}
    )
    assert [hosts[name].standing for name in "abc"] == [Standing.PRESENT, Standing.COMING, Standing.POSSIBLE]


def test_a_cpu_node_counts_the_pools_share_of_its_memory() -> None:
    pool = pools_of(make_node("a", memory_bytes=10 * GIB))[0]
    hosts = hosts_of([pool], {})
    (host,) = hosts.values()
    assert host.whole == pool.usable_memory_bytes(pool.nodes[0])
    assert node_id_of(host.name) == "a"
    room = Room()
    room.update(hosts, {})
    fits = option_of(pool, Engine.VLLM, Needs(accelerators=0, memory_bytes=host.whole))
    too_much = option_of(pool, Engine.VLLM, Needs(accelerators=0, memory_bytes=host.whole + 1))
    assert find_place(room, fits, "m") is not None
    assert find_place(room, too_much, "m") is None


def test_slots_are_laid_out_each_where_it_fits_best() -> None:
    host = Host("a", (), (4, 4))
    slots = [
        make_slot(ordinal=number, node_id="a", accelerators=size) for number, size in enumerate((3, 2, 4))
    ]
    found = holds_on(host, *slots)
    assert list(found.values()) == ["a:012", "a:45", "a:0367"]


def test_a_slot_holds_the_accelerators_that_it_was_told() -> None:
    slots = [
        make_slot(ordinal=0, node_id="a", indices=(5, 4)),
        make_slot(ordinal=1, node_id="a", indices=(1,)),
    ]
    assert list(holds_on(Host("a", (), (4, 4)), *slots).values()) == ["a:54", "a:1"]


def test_those_that_were_told_none_are_laid_out_around_what_others_were_told() -> None:
    slots = [
        make_slot(ordinal=0, node_id="a", accelerators=2),
        make_slot(ordinal=1, node_id="a", indices=(0, 1)),
    ]
    found = holds_on(Host("a", (), (2, 2)), *slots)
    assert sorted(found.values()) == ["a:01", "a:23"]


def test_an_index_that_a_node_has_not_holds_nothing() -> None:
    slot = make_slot(node_id="a", indices=(1, 7))
    assert list(holds_on(Host("a", (), (2,)), slot).values()) == ["a:1"]


def test_stages_hold_a_part_each_and_those_of_several_nodes_a_part_a_node() -> None:
    hosts = {name: Host(name, (), (2, 2)) for name in "ab"}
    staged = replace(
        make_slot(ordinal=0, node_id="a", indices=(2, 3, 0, 1)),
        needs=Needs(accelerators=4, memory_bytes=0, stages=2),
    )
    spread = replace(
        make_slot(ordinal=1, node_id="a", indices=(0, 1)),
        needs=Needs(accelerators=2, memory_bytes=0, nodes=2),
        place=(SlotPlace("a", (0, 1)), SlotPlace("b", (2, 3))),
    )
    assert holds_of(hosts, staged) == {str(staged.name): ("a:23 a:01", Gang(2, 2, within=Near.HOST))}
    assert holds_of(hosts, spread) == {str(spread.name): ("a:01 b:23", Gang(2, 2))}
    del hosts["a"]
    assert holds_of(hosts, spread) == {str(spread.name): ("a:01 b:23", Gang(2, 2))}, "b is not free yet"


def holds_of(hosts: Mapping[str, Host], *slots: Slot) -> dict[str, tuple[str, Gang]]:
    holds = Holdings().of(slots, hosts, leaving=())
    return {name: (shown(hold.place), hold.gang) for name, hold in holds.items()}


def test_a_slot_that_runs_elsewhere_than_it_was_told_holds_its_place_where_it_runs() -> None:
    hosts = {name: Host(name, (), (1,)) for name in "ab"}
    slot = make_slot(node_id="a", running_on="b", accelerators=1)
    (hold,) = Holdings().of([slot], hosts, leaving=()).values()
    assert shown(hold.place) == "b:0"


def test_what_stops_leaves_and_what_the_caller_says() -> None:
    hosts = {"a": Host("a", (), (8,))}
    slots = [make_slot(ordinal=0, node_id="a", accelerators=1, phase=SlotPhase.STOPPING)]
    slots += [make_slot(ordinal=number, node_id="a", accelerators=1) for number in (1, 2)]
    holds = Holdings().of(slots, hosts, leaving={slots[1].name})
    assert [hold.leaving for hold in holds.values()] == [True, True, False]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=6), min_size=1, max_size=4)
)
def test_the_layout_does_not_depend_on_earlier_passes(passes: list[list[tuple[int, int]]]) -> None:
    hosts = {"a": Host("a", (), (4, 4))}
    kept = Holdings()
    for drawn in passes:
        slots = {number: make_slot(ordinal=number, node_id="a", accelerators=size) for number, size in drawn}
        found: dict[str, Hold] = kept.of(slots.values(), hosts, leaving=())
        assert found == Holdings().of(slots.values(), hosts, leaving=())
        assert all(hold.gang == Gang(1, len(hold.place[0].accelerators)) for hold in found.values())
