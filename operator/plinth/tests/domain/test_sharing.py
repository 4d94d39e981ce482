"""Models that want the same accelerators: who is displaced, who moves and who waits, second by second."""

from __future__ import annotations

from typing import Any

from plinth.domain.allotment import PlaceMemory
from plinth.domain.fleet import Model, ModelKey, Node
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import MIB
from plinth.tests.domain.builders import make_model, make_node, make_qwen_artifact
from plinth.tests.domain.fleet_simulator import Fleet

REPLICA_BYTES = 896 * MIB
HIGH, LOW, WIDE = (ModelKey("default", name) for name in ("high", "low", "wide"))


def node_for(replicas: int, node_id: str = "node-1") -> Node:
    """A node whose share for engines (90%) holds so many replicas of the model."""
    return make_node(node_id, memory_bytes=REPLICA_BYTES * replicas * 100 // 90 + MIB)


def fixed(replicas: int) -> dict[str, int]:
    return {"minReplicas": replicas, "maxReplicas": replicas}


def reasons(fleet: Fleet, key: ModelKey) -> str:
    assert fleet.plan is not None
    return " | ".join(next(model for model in fleet.plan.models if model.key == key).reasons)


def count(fleet: Fleet, key: ModelKey) -> int:
    return sum(1 for name in fleet.serving() if name.model == key)


def hold_requests(fleet: Fleet) -> None:
    """Replicas that drain now do not come to an end."""
    for each in fleet.slots.values():
        each.stuck_requests = 1


def low_running(least: int, most: int, *nodes: Node) -> Fleet:
    scaling = {"minReplicas": least, "maxReplicas": most, "quietSeconds": 500}
    fleet = Fleet({LOW: make_model("low", scaling=scaling)}, nodes=nodes)
    fleet.load[LOW] = 8 * most
    fleet.run(6)
    assert count(fleet, LOW) == most
    return fleet


def test_a_higher_priority_gets_its_place_once_the_requests_of_the_displaced_have_ended() -> None:
    fleet = low_running(1, 2, node_for(2))
    hold_requests(fleet)
    fleet.models[HIGH] = make_model("high", first_seen=6.0, priority=5)
    fleet.run(10)
    assert (count(fleet, LOW), count(fleet, HIGH)) == (1, 0)
    (victim,) = fleet.slots.keys() - fleet.serving()
    assert f"1 replica to come once {victim} is gone" in reasons(fleet, HIGH)
    assert f"{victim} gives way to default/high: its priority is 0, below 5" in reasons(fleet, LOW)
    fleet.slots[victim].stuck_requests = 0
    fleet.run(10)
    assert (count(fleet, LOW), count(fleet, HIGH)) == (1, 1)
    assert "its priority 5 is not below 0" in reasons(fleet, LOW)


def test_what_a_model_needs_gives_way_only_to_what_is_needed() -> None:
    fleet = low_running(1, 1, node_for(1))
    fleet.models[HIGH] = make_model("high", first_seen=6.0, priority=5)
    fleet.run(15)
    assert (count(fleet, LOW), count(fleet, HIGH)) == (0, 1)

    fleet = low_running(1, 1, node_for(2))
    scaling = {"minReplicas": 1, "maxReplicas": 2}
    fleet.models[HIGH] = make_model("high", first_seen=6.0, priority=5, scaling=scaling)
    fleet.load[HIGH] = 16
    fleet.run(15)
    assert (count(fleet, LOW), count(fleet, HIGH)) == (1, 1)
    assert "its model needs it, and only load asks for this one" in reasons(fleet, HIGH)


def test_an_equal_priority_displaces_nobody() -> None:
    fleet = low_running(1, 2, node_for(2))
    fleet.models[HIGH] = make_model("high", first_seen=6.0)
    fleet.run(15)
    assert (count(fleet, LOW), count(fleet, HIGH)) == (2, 0)


def test_a_displaced_replica_serves_again_when_nobody_wants_its_place_any_more() -> None:
    fleet = low_running(1, 2, node_for(2))
    hold_requests(fleet)
    fleet.models[HIGH] = make_model("high", first_seen=6.0, priority=5)
    fleet.run(4)
    assert count(fleet, LOW) == 1
    del fleet.models[HIGH]
    fleet.run(3)
    assert count(fleet, LOW) == 2


def on_accelerators(name: str, tensor: int, **changes: Any) -> Model:
    return make_model(
        name,
        source=f"hf://a/{name}",
        artifact=make_qwen_artifact(),
        parallelism={"tensor": tensor},
        **changes,
    )


def fragmented() -> Fleet:
    """Two nodes of two accelerators, one replica on each; `wide` needs a whole node."""
    models = [on_accelerators(name, 1, first_seen=float(at)) for at, name in enumerate("stu")]
    nodes = (make_node("a", accelerators=2), make_node("b", accelerators=2))
    fleet = Fleet({model.key: model for model in models}, nodes=nodes).run(5)
    gone = next(slot for slot in fleet.ready() if slot.node_id == "a")
    del fleet.models[gone.name.model]
    fleet.run(5)
    assert sorted(slot.node_id for slot in fleet.ready()) == ["a", "b"]
    fleet.models[WIDE] = on_accelerators("wide", 2, first_seen=9.0)
    fleet.log.clear()
    return fleet


def test_a_replica_moves_so_that_a_large_one_fits_and_its_model_never_stops_serving() -> None:
    fleet = fragmented()
    others = [key for key in fleet.models if key != WIDE]
    for _ in range(15):
        fleet.step()
        assert all(count(fleet, key) >= 1 for key in others)
    assert count(fleet, WIDE) == 1
    assert len(fleet.slots) == 3
    told = [line[7:].partition(".")[2] for line in fleet.log if "gone" not in line]
    mover = told[0].partition(".")[0]
    assert [line.partition(".")[0] for line in told] == [mover] * 4 + ["wide"] * 2
    assert "in the stead of" not in reasons(fleet, WIDE)


def test_a_move_that_does_not_start_is_given_up_and_the_replica_stays() -> None:
    fleet = fragmented()
    fleet.fails = lambda _: True
    for _ in range(40):
        fleet.step()
        assert {key.name for key in fleet.models if count(fleet, key)} == {
            key.name for key in fleet.models if key != WIDE
        }
    created = [line for line in fleet.log if "created" in line]
    assert 1 <= len(created) <= 3, "not again and again"


def test_what_is_remembered_of_places_makes_no_difference_while_replicas_move_and_yield() -> None:
    fleet, places = fragmented(), PlaceMemory()
    fleet.models[HIGH] = on_accelerators("high", 2, first_seen=10.0, priority=5)
    for _ in range(40):
        fleet.step()
        snapshot = fleet.snapshot()
        assert compute_plan(snapshot, fleet.now, places=places) == compute_plan(snapshot, fleet.now)
    assert (count(fleet, HIGH), count(fleet, WIDE)) == (1, 0)
