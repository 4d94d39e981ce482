"""Whole rollouts, second by second, told by the simulated fleet's log."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from plinth.domain.fleet import Model, ModelKey, Node, SlotName
from plinth.domain.quantities import MIB
from plinth.tests.domain.builders import make_model, make_node, make_resource
from plinth.tests.domain.fleet_simulator import Fleet, story

CHAT = ModelKey("default", "chat")
REPLICA_BYTES = 896 * MIB


def node_for(replicas: int, node_id: str = "node-1") -> Node:
    """A node whose share for engines (90%) holds so many replicas of the model."""
    return make_node(node_id, memory_bytes=REPLICA_BYTES * replicas * 100 // 90 + MIB)


def respec(**spec: Any) -> Callable[[Model], Model]:
    def change(model: Model) -> Model:
        status = model.resource.status.model_dump(by_alias=True)
        return replace(model, resource=make_resource(status=status, **spec))

    return change


def fixed(replicas: int) -> dict[str, int]:
    return {"minReplicas": replicas, "maxReplicas": replicas}


def new_version(replicas: int = 1) -> Callable[[Model], Model]:
    """As large as the old one, yet another revision."""
    return respec(scaling=fixed(replicas), engine={"args": {"seed": "7"}})


def old_version(replicas: int = 1) -> Callable[[Model], Model]:
    return respec(scaling=fixed(replicas))


def started(replicas: int, *nodes: Node, **changes: Any) -> Fleet:
    """A fleet whose old revision runs; its log starts afterwards."""
    model = make_model(scaling=fixed(replicas))
    fleet = Fleet({CHAT: model}, nodes=nodes or (node_for(2 * replicas),), **changes).run(5)
    assert len(fleet.ready()) == replicas
    fleet.log.clear()
    return fleet


def revisions(fleet: Fleet, old: str) -> dict[str, str]:
    assert fleet.plan is not None
    return {"old": old, "new": fleet.plan.models[0].revision}


def tell(fleet: Fleet, old: str) -> list[str]:
    return story(fleet.log, **revisions(fleet, old))


def revision(fleet: Fleet) -> str:
    assert fleet.plan is not None
    return fleet.plan.models[0].revision


def test_a_new_version_comes_up_beside_the_old_takes_the_traffic_and_the_old_drains() -> None:
    fleet = started(2)
    old = revision(fleet)
    fleet.edit(CHAT, new_version(2))
    fleet.run(9)
    assert tell(fleet, old) == [
        "  5 s  default/chat is edited",
        "  5 s  new.0 is created on node-1",
        "  5 s  new.1 is created on node-1",
        "  8 s  new.0 is ready",
        "  8 s  new.1 is ready",
        "  8 s  old.0 drains",
        "  8 s  old.1 drains",
        "  9 s  old.0 is removed: new serves in its place; its requests have ended",
        "  9 s  old.1 is removed: new serves in its place; its requests have ended",
        " 11 s  old.0 is gone",
        " 11 s  old.1 is gone",
    ]


def test_with_room_for_one_more_the_replicas_change_one_by_one_and_never_fewer_serve() -> None:
    fleet = started(2, node_for(3))
    old = revision(fleet)
    fleet.edit(CHAT, new_version(2))
    for _ in range(20):
        fleet.step()
        assert len(fleet.serving()) >= 2
    assert tell(fleet, old) == [
        "  5 s  default/chat is edited",
        "  5 s  new.0 is created on node-1",
        "  8 s  new.0 is ready",
        "  8 s  old.1 drains",
        "  9 s  old.1 is removed: new serves in its place; its requests have ended",
        " 11 s  old.1 is gone",
        " 11 s  new.1 is created on node-1",
        " 14 s  new.1 is ready",
        " 14 s  old.0 drains",
        " 15 s  old.0 is removed: new serves in its place; its requests have ended",
        " 17 s  old.0 is gone",
    ]


def test_without_room_beside_them_one_old_replica_drains_first_while_the_other_serves() -> None:
    fleet = started(2, node_for(2))
    old = revision(fleet)
    fleet.edit(CHAT, new_version(2))
    for _ in range(22):
        fleet.step()
        assert len(fleet.serving()) >= 1
    assert tell(fleet, old) == [
        "  5 s  default/chat is edited",
        "  5 s  old.1 drains",
        "  6 s  old.1 is removed: to make room for new; its requests have ended",
        "  8 s  old.1 is gone",
        "  8 s  new.0 is created on node-1",
        " 11 s  new.0 is ready",
        " 11 s  old.0 drains",
        " 12 s  old.0 is removed: to make room for new; its requests have ended",
        " 14 s  old.0 is gone",
        " 14 s  new.1 is created on node-1",
        " 17 s  new.1 is ready",
    ]


def test_the_only_replica_drains_first_where_nothing_else_can_be_done_and_the_plan_says_so() -> None:
    fleet = started(1, node_for(1))
    old = revision(fleet)
    fleet.edit(CHAT, new_version())
    fleet.step()
    assert fleet.plan is not None
    assert any(
        "requests are held until the new one is ready" in reason for reason in fleet.plan.models[0].reasons
    )
    fleet.run(9)
    assert tell(fleet, old) == [
        "  5 s  default/chat is edited",
        "  5 s  old.0 drains",
        "  6 s  old.0 is removed: to make room for new; its requests have ended",
        "  8 s  old.0 is gone",
        "  8 s  new.0 is created on node-1",
        " 11 s  new.0 is ready",
    ]


def test_a_new_version_that_never_starts_is_retried_ever_more_slowly_while_the_old_serves() -> None:
    fleet = started(1)
    old = revision(fleet)
    fleet.fails = lambda name: name.revision != old
    fleet.edit(CHAT, new_version())
    for _ in range(50):
        fleet.step()
        assert fleet.serving() == [SlotName(CHAT, old, 0)]
    created = [line for line in tell(fleet, old) if "created" in line]
    # The first retry waits only for the failed one's place; then 10 s and 20 s after the failure before.
    assert created == [
        "  5 s  new.0 is created on node-1",
        " 10 s  new.0 is created on node-1",
        " 23 s  new.0 is created on node-1",
        " 46 s  new.0 is created on node-1",
    ]


def test_with_no_room_beside_it_a_failing_version_costs_one_replica_and_no_more() -> None:
    fleet = started(2, node_for(2))
    old = revision(fleet)
    fleet.fails = lambda name: name.revision != old
    fleet.edit(CHAT, new_version(2))
    fleet.run(60)
    assert fleet.serving() == [SlotName(CHAT, old, 0)]


def test_going_back_mid_rollout_keeps_the_old_replicas_that_still_run() -> None:
    fleet = started(2, node_for(3))
    old = revision(fleet)
    fleet.edit(CHAT, new_version(2))
    fleet.run(4)
    new = revision(fleet)
    fleet.slots[SlotName(CHAT, old, 1)].stuck_requests = 1
    fleet.edit(CHAT, old_version(2))
    fleet.run(6)
    assert story(fleet.log, old=old, new=new)[3:] == [
        "  8 s  old.1 drains",
        "  9 s  default/chat is edited",
        "  9 s  new.0 drains",
        "  9 s  old.1 serves again",
        " 10 s  new.0 is removed: old serves in its place; its requests have ended",
        " 12 s  new.0 is gone",
    ]


def test_an_edit_while_the_first_version_still_loads_drops_it_at_once() -> None:
    fleet = Fleet({CHAT: make_model(scaling=fixed(1))}, start_seconds=lambda _: 30).run(3)
    old = revision(fleet)
    fleet.edit(CHAT, new_version())
    fleet.run(4)
    assert tell(fleet, old)[1:] == [
        "  3 s  default/chat is edited",
        "  3 s  old.0 is removed: new is wanted now; no request was ever sent to it",
        "  3 s  new.0 is created on node-1",
        "  5 s  old.0 is gone",
    ]


def test_a_killed_replica_is_replaced_by_a_new_one_while_the_rest_serves() -> None:
    fleet = started(2)
    old = revision(fleet)
    fleet.kill(SlotName(CHAT, old, 0))
    fleet.run(5)
    assert tell(fleet, old) == [
        "  5 s  old.0 dies",
        "  5 s  old.0 is removed: its engine failed: killed by signal 9",
        "  5 s  old.2 is created on node-1",
        "  7 s  old.0 is gone",
        "  8 s  old.2 is ready",
    ]


def test_a_killed_old_replica_comes_back_while_the_new_version_does_not_start() -> None:
    fleet = started(1, node_for(3))
    old = revision(fleet)
    fleet.fails = lambda name: name.revision != old
    fleet.edit(CHAT, new_version())
    fleet.run(16)
    failure = fleet.models[CHAT].failure
    fleet.kill(SlotName(CHAT, old, 0))
    fleet.models[CHAT] = replace(fleet.models[CHAT], failure=failure)
    fleet.run(4)
    assert fleet.serving() == [SlotName(CHAT, old, 1)]


def test_load_that_comes_and_goes_is_followed_up_at_once_down_after_quiet_to_zero_and_back() -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 3, "quietSeconds": 10}
    fleet = Fleet({CHAT: make_model(scaling=scaling)}).run(8)
    old = revision(fleet)
    fleet.load[CHAT] = 20
    fleet.run(8)
    fleet.load[CHAT] = 8
    fleet.run(12)
    fleet.load[CHAT] = 0
    fleet.run(20)
    fleet.load[CHAT] = 1
    fleet.run(5)
    assert [line for line in story(fleet.log, old=old) if "gone" not in line and "removed" not in line] == [
        "  0 s  old.0 is created on node-1",
        "  3 s  old.0 is ready",
        "  8 s  old.1 is created on node-1",
        "  8 s  old.2 is created on node-1",
        " 11 s  old.1 is ready",
        " 11 s  old.2 is ready",
        " 25 s  old.2 drains",
        " 37 s  old.0 drains",
        " 37 s  old.1 drains",
        " 48 s  old.0 is created on node-1",
        " 51 s  old.0 is ready",
    ]


def test_a_replica_with_a_long_stream_stays_until_it_ends() -> None:
    fleet = started(2)
    old = revision(fleet)
    fleet.slots[SlotName(CHAT, old, 1)].stuck_requests = 1
    fleet.edit(CHAT, old_version(1))
    fleet.run(30)
    assert SlotName(CHAT, old, 1) in fleet.slots
    fleet.slots[SlotName(CHAT, old, 1)].stuck_requests = 0
    fleet.run(4)
    assert SlotName(CHAT, old, 1) not in fleet.slots


def test_a_stream_that_outlasts_the_drain_timeout_is_cut_and_the_reason_says_so() -> None:
    fleet = started(1)
    old = revision(fleet)
    fleet.slots[SlotName(CHAT, old, 0)].stuck_requests = 2
    fleet.edit(CHAT, respec(engine={"args": {"seed": "7"}}, rollout={"drainTimeoutSeconds": 20}))
    fleet.run(30)
    assert (
        " 28 s  old.0 is removed: new serves in its place; drainTimeoutSeconds (20 s) is over, 2 requests cut"
        in tell(fleet, old)
    )


def test_while_the_gateway_is_silent_nothing_is_drained_to_its_end_or_scaled_down() -> None:
    fleet = started(2)
    old = revision(fleet)
    fleet.reporting = False
    fleet.edit(CHAT, respec(scaling={"minReplicas": 0, "maxReplicas": 2, "quietSeconds": 5}))
    fleet.run(30)
    assert [str(slot.name.ordinal) for slot in fleet.ready()] == ["0", "1"]
    fleet.reporting = True
    fleet.run(15)
    assert fleet.slots == {}
    assert old


def test_a_deleted_models_replicas_drain_and_go() -> None:
    fleet = started(1)
    old = revision(fleet)
    fleet.slots[SlotName(CHAT, old, 0)].stuck_requests = 1
    del fleet.models[CHAT]
    fleet.run(5)
    assert fleet.slots
    fleet.slots[SlotName(CHAT, old, 0)].stuck_requests = 0
    fleet.run(4)
    assert story(fleet.log, old=old) == [
        "  5 s  old.0 drains",
        " 10 s  old.0 is removed: its model was deleted",
        " 12 s  old.0 is gone",
    ]


@pytest.mark.parametrize("seed", range(12))
def test_in_whatever_order_things_are_seen_and_become_ready_the_rollout_ends_well(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seeded order, not a secret
    replicas = chance.randint(1, 4)
    # Room for at least one more than runs, so that fewer must never serve than before.
    fleet = started(replicas, node_for(replicas + chance.randint(1, replicas)))
    delays: dict[SlotName, int] = {}
    fleet.start_seconds = lambda name: delays.setdefault(name, chance.randint(1, 6))
    fleet.shuffle = lambda slots: chance.sample(slots, len(slots))
    fleet.edit(CHAT, new_version(replicas))
    for _ in range(80):
        fleet.step()
        assert len(fleet.serving()) >= replicas
    assert {slot.name.revision for slot in fleet.ready()} == {revision(fleet)}
    assert len(fleet.slots) == replicas
