from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.fleet import Engine, ModelKey, Needs, Node, NodeState, SlotPhase
from plinth.domain.placement import Holding, PlacementRequest, Room, explain_shortage, find_place, room_of
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import make_node, make_pool, make_slot

CHAT, OTHER = ModelKey("default", "chat"), ModelKey("team", "other")


def pool_of(*nodes: Node) -> Pool:
    return resolve_pools((make_pool(),), nodes)[0]


def wanting(
    pool: Pool, *, accelerators: int = 0, memory: int = GIB, engine: Engine = Engine.VLLM
) -> PlacementRequest:
    needs = Needs(accelerators=accelerators, memory_bytes=0 if accelerators else memory)
    return PlacementRequest(model=CHAT, needs=needs, pool=pool, engine=engine)


def place_many(request: PlacementRequest, room: Room, count: int) -> list[str | None]:
    places: list[str | None] = []
    for number in range(count):
        node = find_place(request, room)
        places.append(node.node_id if node else None)
        if node:
            room.take(node.node_id, Holding(model=CHAT, needs=request.needs, slot=str(number)))
    return places


def test_accelerators_are_packed_so_that_whole_nodes_stay_free() -> None:
    pool = pool_of(make_node("a", accelerators=8), make_node("b", accelerators=8))
    room = room_of([make_slot(node_id="b", accelerators=2)])
    assert place_many(wanting(pool, accelerators=2), room, 5) == ["b", "b", "b", "a", "a"]


def test_cpu_replicas_of_one_model_are_spread_over_the_nodes() -> None:
    pool = pool_of(make_node("a"), make_node("b"), make_node("c"))
    assert place_many(wanting(pool), Room(), 4) == ["a", "b", "c", "a"]


def test_a_replica_is_placed_whole_on_one_node_or_not_at_all() -> None:
    pool = pool_of(make_node("a", accelerators=3), make_node("b", accelerators=3))
    assert place_many(wanting(pool, accelerators=4), Room(), 1) == [None]
    assert place_many(wanting(pool, accelerators=2), Room(), 3) == ["a", "b", None]


def test_what_drains_or_stops_still_holds_its_place() -> None:
    pool = pool_of(make_node("a", accelerators=2))
    for phase in (SlotPhase.READY, SlotPhase.PENDING, SlotPhase.FAILED, SlotPhase.STOPPING):
        assert (
            find_place(
                wanting(pool, accelerators=2), room_of([make_slot(phase=phase, node_id="a", accelerators=1)])
            )
            is None
        )


def test_what_runs_elsewhere_than_it_was_told_holds_its_place_where_it_runs() -> None:
    pool = pool_of(make_node("a", accelerators=1), make_node("b", accelerators=1))
    room = room_of([make_slot(node_id="a", running_on="b", accelerators=1)])
    assert place_many(wanting(pool, accelerators=1), room, 2) == ["a", None]


def test_only_nodes_with_the_engine_are_used() -> None:
    pool = pool_of(make_node("a", labels={"plinth.dev/engines": "LlamaCpp"}), make_node("b"))
    assert place_many(wanting(pool), Room(), 2) == ["b", "b"]
    assert place_many(wanting(pool, engine=Engine.LLAMA_CPP), Room(), 2) == ["a", "b"]


def test_the_pools_share_of_a_node_is_the_limit_not_the_node() -> None:
    pool = pool_of(make_node("a", memory_bytes=10 * GIB))
    assert place_many(wanting(pool, memory=3 * GIB), Room(), 4) == ["a", "a", "a", None]


@st.composite
def accelerated_nodes(draw: st.DrawFn) -> list[Node]:
    """There, on their way, or not asked for yet."""
    states = st.sampled_from(
        [(NodeState.PRESENT, "w"), (NodeState.POTENTIAL, "w"), (NodeState.POTENTIAL, "")]
    )
    found = []
    for number in range(draw(st.integers(1, 6))):
        state, worker = draw(states)
        node = make_node(f"n{number}", accelerators=draw(st.integers(1, 4)))
        found.append(replace(node, state=state, worker=worker))
    return found


@given(accelerated_nodes(), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=8), st.data())
def test_the_place_found_is_the_best_of_all(
    nodes: list[Node], held: list[tuple[int, bool]], data: st.DataObject
) -> None:
    pool, room = pool_of(*nodes), Room()

    def merit(node: Node) -> tuple[bool, bool, int, int, str]:
        absent = node.state is not NodeState.PRESENT
        siblings = sum(each.model == CHAT for each in room.on(node.node_id))
        return absent, absent and not node.worker, room.free_accelerators(node), siblings, node.node_id

    for number, (place, own) in enumerate(held):
        request = wanting(pool, accelerators=data.draw(st.integers(1, 4)))
        able = [node for node in nodes if room.fits(pool, node, request.needs)]
        assert find_place(request, room) == min(able, key=merit, default=None)
        holding = Holding(model=CHAT if own else OTHER, needs=request.needs, slot=str(number))
        room.take(nodes[place % len(nodes)].node_id, holding)


def test_a_shortage_says_what_is_needed_what_is_free_and_who_holds_the_rest() -> None:
    pool = pool_of(make_node("a", accelerators=4))
    room = room_of(
        [make_slot(node_id="a", accelerators=1), make_slot(model=OTHER, node_id="a", accelerators=2)]
    )
    assert explain_shortage(wanting(pool, accelerators=2), room) == (
        "a replica needs 2 accelerators of one node, 1 free at most; "
        "held by team/other (2 accelerators), default/chat (1 accelerator)"
    )


def test_a_shortage_of_memory_is_told_in_bytes() -> None:
    pool = pool_of(make_node("a", memory_bytes=2 * GIB))
    room = room_of([make_slot(model=OTHER, node_id="a", memory_bytes=GIB)])
    assert explain_shortage(wanting(pool), room) == (
        "a replica needs 1.0 GiB of one node, 819.2 MiB free at most; held by team/other (1.0 GiB)"
    )
