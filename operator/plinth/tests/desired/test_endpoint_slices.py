"""Routes written as EndpointSlices and read back, and what is made of slices that nobody should have written."""

from __future__ import annotations

import json
import random
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.desired.endpoint_slices import is_as_wanted, marker, owner_reference, slices_of
from plinth.desired.slice_reading import route_table
from plinth.domain.control_lines import decode_line, encode_table
from plinth.domain.traffic import (
    Availability,
    ModelRoute,
    ObjectiveRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
    Strategy,
    TrafficShare,
)
from plinth.tests.desired.routes import OWNER, RELEASE, slices_of_table, tables

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def make_route(model: str = "default/chat", **overrides: Any) -> ModelRoute:
    replica = ReplicaRoute(
        slot=f"{model.replace('/', '.')}.0c5e9f1a.0",
        host="10.0.0.7",
        port=31001,
        path="/x",
        state=ReplicaState.READY,
        concurrency=4,
    )
    values: dict[str, Any] = {
        "model": model,
        "names": (model,),
        "task": "Generate",
        "created": 1,
        "availability": Availability.AVAILABLE,
        "message": "",
        "replicas": (replica,),
    }
    return ModelRoute(**(values | overrides))


def read(*slices: dict[str, Any]) -> tuple[RouteTable, tuple[str, ...]]:
    found = route_table(slices, release_namespace=RELEASE)
    return found.table, found.passed_over


@given(tables(), st.randoms(use_true_random=False))
def test_every_table_comes_back_as_it_was_in_whatever_order_its_slices_are_read(
    table: RouteTable, order: random.Random
) -> None:
    slices = json.loads(json.dumps(slices_of_table(table)))
    order.shuffle(slices)
    found = route_table(slices, release_namespace=RELEASE)
    assert found.table == table
    assert found.passed_over == ()


@given(tables())
def test_a_table_is_kept_in_a_file_and_handed_to_a_gateway_without_loss(table: RouteTable) -> None:
    assert decode_line(encode_table(table)) == table


@given(tables())
def test_every_slice_is_named_as_kubernetes_allows_and_no_two_alike(table: RouteTable) -> None:
    names = [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in slices_of_table(table)]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) and len(name) <= 253 for _, name in names)


@given(tables(), st.data())
def test_a_slice_broken_anywhere_costs_no_other_model_anything(
    table: RouteTable, data: st.DataObject
) -> None:
    slices = slices_of_table(table)
    broken = data.draw(st.sampled_from(slices))
    metadata = broken["metadata"]
    model = f"{metadata['namespace']}/{metadata['labels'].get('plinth.dev/model')}"
    break_somewhere(broken, data)
    found = {route.model: route for route in route_table(slices, release_namespace=RELEASE).table.models}
    assert all(found.get(route.model) == route for route in table.models if route.model != model)


def break_somewhere(place: dict[str, Any], data: st.DataObject) -> None:
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        inner = place[key]
        if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(json_values)
            return
        place = inner


def test_a_route_reads_well_with_kubectl() -> None:
    header, replica = slices_of(make_route(), OWNER)
    assert header["metadata"]["name"] == "plinth.chat"
    assert (header["endpoints"], header["ports"]) == ([], [])
    assert replica["metadata"]["name"] == "plinth.chat.0c5e9f1a.0"
    assert replica["metadata"]["labels"]["plinth.dev/model"] == "chat"
    assert replica["metadata"]["ownerReferences"] == [OWNER]
    assert replica["addressType"] == "IPv4"
    assert replica["endpoints"][0]["addresses"] == ["10.0.0.7"]
    assert replica["ports"][0]["port"] == 31001


@pytest.mark.parametrize(
    ("state", "ready", "serving", "terminating"),
    [
        (ReplicaState.READY, True, True, False),
        (ReplicaState.DRAINING, False, True, True),
        (ReplicaState.DEAD, False, False, False),
    ],
)
def test_a_replicas_state_is_told_by_the_conditions_that_others_understand(
    state: ReplicaState, *, ready: bool, serving: bool, terminating: bool
) -> None:
    route = make_route()
    draining = make_route(replicas=(ReplicaRoute(**(vars(route.replicas[0]) | {"state": state})),))
    conditions = slices_of(draining, OWNER)[1]["endpoints"][0]["conditions"]
    assert conditions == {"ready": ready, "serving": serving, "terminating": terminating}


def test_a_slice_cannot_speak_for_a_model_of_another_namespace() -> None:
    header, replica = slices_of(make_route("default/chat"), OWNER)
    for each in (header, replica):
        each["metadata"]["namespace"] = "elsewhere"
    table, passed_over = read(header, replica)
    assert table.models == ()
    assert "is not one of the model elsewhere/chat" in passed_over[0]
    assert "must be of the model elsewhere/chat" in passed_over[1]


def test_a_model_cannot_take_the_full_name_of_another() -> None:
    thief = make_route("elsewhere/thief", names=("default/chat", "elsewhere/thief"))
    table, passed_over = read(*slices_of(thief, OWNER), *slices_of(make_route("default/chat"), OWNER))
    assert [route.names for route in table.models] == [("default/chat",), ("elsewhere/thief",)]
    assert passed_over == ("elsewhere/thief: the name default/chat is another model's",)


def test_no_field_of_a_route_or_a_replica_is_lost() -> None:
    """All fields are told here, so a new one that the slices leave out fails."""
    plain = make_route()
    replica = replace(
        plain.replicas[0], kind="H200 TP2 VLLM", kv_tokens=775_216, engine="VLLM", fault="its memory fails"
    )
    route = replace(
        plain,
        message="a word",
        replicas=(replica,),
        objectives=ObjectiveRoute(
            ttft_milliseconds=200, tpot_milliseconds=None, input_tokens=512, output_tokens=256
        ),
        revision="0c5e9f1a+a0b1c2d3",
        aliases=("chat@awq",),
        fallbacks=("small",),
        adapters=("default/chat:law",),
        strategy=Strategy.PREFIX_HASH,
        session_header="x-session-id",
        shares=(TrafficShare(model="default/canary", percent=5, mirror_percent=10),),
    )
    assert all([*vars(route).values(), *vars(replica).values()])
    assert read(*json.loads(json.dumps(slices_of(route, OWNER))))[0].models == (route,)


@pytest.mark.parametrize(
    "share",
    [
        TrafficShare(model="elsewhere/canary", percent=5, mirror_percent=0),
        TrafficShare(model="default/chat", percent=5, mirror_percent=0),
        TrafficShare(model="default/canary", percent=101, mirror_percent=0),
        TrafficShare(model="default/canary", percent=0, mirror_percent=-1),
    ],
    ids=["of another namespace", "its own", "more than all", "less than nothing"],
)
def test_a_share_that_nobody_could_have_asked_for_is_passed_over(share: TrafficShare) -> None:
    table, passed_over = read(*slices_of(make_route(shares=(share,)), OWNER))
    assert table.models == ()
    assert "must give shares of up to 100 percent to models of its own namespace" in passed_over[1]


def test_an_adapter_cannot_take_the_full_name_of_another_model() -> None:
    table, passed_over = read(*slices_of(make_route("elsewhere/thief", adapters=("default/chat",)), OWNER))
    assert table.models == ()
    assert "must name adapters as NAME:ADAPTER" in passed_over[1]


def test_slices_that_an_older_operator_wrote_are_read() -> None:
    header, replica = slices_of(make_route(), OWNER)
    for each, key, newer in (
        (header, "plinth.dev/route", ("shares", "strategy", "aliases", "revision")),
        (replica, "plinth.dev/replica", ("kind", "kv_tokens", "engine", "fault")),
    ):
        note = json.loads(each["metadata"]["annotations"][key])
        each["metadata"]["annotations"][key] = json.dumps({k: v for k, v in note.items() if k not in newer})
    table, passed_over = read(header, replica)
    assert passed_over == ()
    assert table.models == (make_route(),)


def test_only_the_releases_marker_tells_the_version() -> None:
    assert read(marker(RELEASE, 7))[0].version == 7
    table, passed_over = read(marker("elsewhere", 9), marker(RELEASE, 7))
    assert table.version == 7
    assert "elsewhere/plinth.table" in passed_over[0]


@pytest.mark.parametrize("path", ["/x y", "/x\r\nhost: elsewhere", "x", "//", "/ü"])
def test_a_path_that_could_break_out_of_a_request_line_is_passed_over(path: str) -> None:
    header, replica = slices_of(make_route(), OWNER)
    note = json.loads(replica["metadata"]["annotations"]["plinth.dev/replica"]) | {"path": path}
    replica["metadata"]["annotations"]["plinth.dev/replica"] = json.dumps(note)
    table, passed_over = read(header, replica)
    assert table.models[0].replicas == ()
    assert "a plain path" in passed_over[0]


def test_a_replica_without_its_models_header_waits_for_it() -> None:
    header, replica = slices_of(make_route(), OWNER)
    assert read(replica)[1] == ("default.chat.0c5e9f1a.0: the model default/chat has no header",)
    assert len(read(header, replica)[0].models[0].replicas) == 1


@given(tables())
def test_a_slice_as_the_api_server_gives_it_back_is_as_wanted(table: RouteTable) -> None:
    for wanted in slices_of_table(table):
        found = deepcopy(wanted) | {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
        found["metadata"] |= {"resourceVersion": "7", "uid": "u", "generation": 1}
        found["metadata"]["annotations"] = {**found["metadata"]["annotations"], "someone": "else"}
        found["endpoints"], found["ports"] = found["endpoints"] or None, found["ports"] or None
        assert is_as_wanted(found, wanted)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("metadata", "labels", "plinth.dev/model"), "other"),
        (("metadata", "annotations", "plinth.dev/replica"), "{}"),
        (("metadata", "ownerReferences"), [owner_reference("chat", "recreated")]),
        (("endpoints",), []),
        (("ports",), None),
        (("addressType",), "IPv6"),
    ],
)
def test_whatever_else_is_in_a_slice_is_drift(where: tuple[str, ...], value: Any) -> None:
    wanted = slices_of(make_route(), OWNER)[1]
    found = deepcopy(wanted)
    place = found
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    assert not is_as_wanted(found, wanted)
