"""Where one replica goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.placing.demands import Gang, Near, Option
from plinth.domain.placing.finding import find_place
from plinth.domain.placing.hosts import Hold, Host, Standing
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.placing_builders import POOL, make_hold, make_host, room_of, shown


def place(
    room: Room,
    *,
    parts: int = 1,
    accelerators: int = 1,
    share: int = 1000,
    within: Near = Near.POOL,
    spread: bool = False,
) -> str | None:
    gang = Gang(parts, accelerators, share, within, spread)
    found = find_place(room, Option(POOL, gang), "m")
    return None if found is None else shown(found)


def test_the_smallest_gap_that_takes_it_is_filled() -> None:
    room = room_of([make_host("a"), make_host("b")], [make_hold("x.0", "b", 0, 1, 2, 3, 4)])
    assert place(room, accelerators=2) == "b:56"
    assert place(room, accelerators=4) == "a:0123"
    assert place(room, accelerators=9) is None


def test_of_two_gaps_alike_that_of_the_fuller_host_is_filled() -> None:
    room = room_of([make_host("a", 4, 4), make_host("b", 4, 4)], [make_hold("x.0", "b", 0, 1, 2, 3)])
    assert place(room, accelerators=4) == "b:4567"


def test_of_two_hosts_alike_the_one_with_fewer_replicas_of_the_model_is_taken() -> None:
    room = room_of([make_host("a"), make_host("b")], [make_hold("m.0", "a", 0), make_hold("x.0", "b", 0)])
    assert place(room) == "b:1"


def test_a_part_never_crosses_a_link_domain() -> None:
    room = room_of([make_host("a", 4, 4)], [make_hold("x.0", "a", 0), make_hold("x.1", "a", 4)])
    assert place(room, accelerators=4) is None
    assert place(room, accelerators=3) == "a:123"


def test_what_is_there_comes_before_what_is_coming_and_that_before_what_could_be() -> None:
    hosts = [
        make_host("a", 2, standing=Standing.POSSIBLE),
        make_host("b", 4, standing=Standing.COMING),
        make_host("c", 8),
    ]
    room = room_of(hosts)
    assert place(room, accelerators=2) == "c:01"
    room = room_of(hosts, [make_hold("x.0", "c", *range(8))])
    assert place(room, accelerators=2) == "b:01"


def test_the_stages_of_a_gang_go_to_one_host_if_one_has_room() -> None:
    hosts = [make_host("a", 4, 4, rack="r"), make_host("b", 4, rack="r"), make_host("c", 4, rack="r")]
    assert place(room_of(hosts), parts=2, accelerators=4) == "a:0123 a:4567"


def test_else_to_one_rack_and_else_anywhere_as_far_as_they_may() -> None:
    hosts = [make_host("a", 4, rack="r"), make_host("b", 4, rack="s"), make_host("c", 4, rack="s")]
    room = room_of(hosts)
    assert place(room, parts=2, accelerators=4) == "b:0123 c:0123"
    assert place(room, parts=2, accelerators=4, within=Near.HOST) is None
    room = room_of(hosts, [make_hold("x.0", "c", 0)])
    assert place(room, parts=2, accelerators=4, within=Near.RACK) is None
    assert place(room, parts=2, accelerators=4) == "a:0123 b:0123"


def test_many_parts_go_to_as_few_hosts_as_can_be() -> None:
    hosts = [make_host("a", 2), make_host("b", 8), make_host("c", 4)]
    assert place(room_of(hosts), parts=5, accelerators=2) == "b:01 b:23 b:45 b:67 a:01"


def test_a_gang_is_whole_or_has_no_place_and_what_was_tried_is_given_back() -> None:
    hosts = [make_host("a", 4, rack="r"), make_host("b", 4, rack="s")]
    room = room_of(hosts)
    assert place(room, parts=3, accelerators=4) is None
    assert room.stands["a"].free == room.stands["b"].free == [1000] * 4
    assert place(room, parts=2, accelerators=4) == "a:0123 b:0123"


def test_shares_fill_an_accelerator_that_is_shared_already_best() -> None:
    held = [make_hold("x.0", "a", 0, share=300), make_hold("x.1", "a", 1, share=600)]
    room = room_of([make_host("a", 4)], held)
    assert place(room, share=400) == "a:1"
    assert place(room, share=500) == "a:0"
    assert place(room, share=800) == "a:2"


def test_the_shares_of_one_replica_are_on_different_accelerators() -> None:
    room = room_of([make_host("a", 2), make_host("b", 2)], [make_hold("x.0", "a", 0, share=100)])
    assert place(room, accelerators=2, share=250) == "a:01"
    assert place(room, parts=3, share=250) == "a:0 a:1 b:0"
    assert place(room, parts=5, share=250) is None


def test_memory_is_spread_where_siblings_are_fewest_then_where_most_is_free() -> None:
    hosts = [Host(name, (POOL,), (1,), whole=whole) for name, whole in (("a", 10), ("b", 20), ("c", 30))]
    room = room_of(hosts)
    found = []
    for number in range(4):
        where = find_place(room, Option(POOL, Gang(1, 1, 5, Near.HOST, spread=True)), "m")
        assert where is not None
        found.append(where[0].host)
        room.put(Hold(f"m.{number}", "m", POOL, Gang(1, 1, 5), where))
    assert found == ["c", "b", "a", "c"]


@given(st.data())
def test_no_place_would_have_been_better(data: st.DataObject) -> None:
    hosts = [
        make_host(name, *data.draw(st.sampled_from([(8,), (4, 4), (2, 2)])), standing=standing)
        for name, standing in zip(
            "abcde", data.draw(st.lists(st.sampled_from(Standing), min_size=5, max_size=5)), strict=True
        )
    ]
    room = room_of(hosts)
    for number in range(data.draw(st.integers(0, 8))):
        size = data.draw(st.sampled_from([1, 2, 4]))
        merits = []
        for host in hosts:
            stand = room.stands[host.name]
            siblings = sum(1 for hold, _ in stand.holds.values() if hold.model == "m")
            merits += [
                (host.standing, free, stand.host_free, siblings, host.name, domain)
                for domain, free in enumerate(stand.whole_free)
                if free >= size
            ]
        option = Option(POOL, Gang(1, size))
        found = find_place(room, option, "m")
        if not merits:
            assert found is None
            return
        assert found is not None
        best = min(merits)
        stand = room.stands[found[0].host]
        assert (found[0].host, stand.number_of[found[0].accelerators[0]]) == best[4:]
        model = data.draw(st.sampled_from(["m", "other"]))
        room.put(Hold(f"{number}", model, POOL, option.gang, found))
