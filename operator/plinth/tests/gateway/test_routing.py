"""Which replica gets a request, which request waits, and what was promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.traffic import ObjectiveRoute
from plinth.gateway.protocol.endpoints import Endpoint, match, paths_for
from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.protocol.probe import before_prompt, most_output_tokens, probe_body, prompt_bytes
from plinth.gateway.protocol.probe_fields import Probe
from plinth.gateway.routing.choice import REQUEST_TOKENS, Standing, choose, order
from plinth.gateway.routing.names import model_not_found, routes_by_name
from plinth.gateway.routing.objectives import ObjectiveCounts, Outcome, time_per_output_token
from plinth.tests.gateway.harness import make_model, make_table

STANDINGS = st.lists(
    st.builds(
        Standing,
        slot=st.sampled_from("abcdefgh"),
        concurrency=st.integers(1, 4),
        available=st.booleans(),
        in_flight=st.integers(0, 6),
        pending_tokens=st.integers(0, 200),
    ),
    unique_by=lambda standing: standing.slot,
)


@given(STANDINGS, st.integers(0, 3), st.sets(st.sampled_from("abcdefgh")))
def test_the_chosen_replica_is_available_has_room_and_no_better_one_exists(
    standings: list[Standing], headroom: int, avoid: set[str]
) -> None:
    chosen = choose(standings, headroom=headroom, avoid=avoid)
    present = [item for item in standings if item.available]
    within = [item for item in present if item.in_flight < item.concurrency]
    room = within or [item for item in present if item.in_flight < item.concurrency + headroom]
    if not room:
        assert chosen is None
    else:
        assert chosen in room
        assert order(chosen, avoid) == min(order(item, avoid) for item in room)


@given(STANDINGS, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_replicas(
    standings: list[Standing], random: object
) -> None:
    shuffled = list(standings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(standings) == choose(shuffled)


@given(st.integers(1, 6), st.integers(0, 60))
def test_equal_requests_spread_evenly(replicas: int, requests: int) -> None:
    standings = [Standing(slot=f"s{index}", concurrency=100) for index in range(replicas)]
    for _ in range(requests):
        chosen = choose(standings)
        assert chosen is not None
        chosen.in_flight += 1
    counts = [item.in_flight for item in standings]
    assert max(counts) - min(counts) <= 1


def test_a_long_prompt_weighs_more_than_a_few_short_requests() -> None:
    reading = Standing(slot="a", concurrency=9, in_flight=1, pending_tokens=1000)
    decoding = Standing(slot="b", concurrency=9, in_flight=3)
    assert REQUEST_TOKENS * 2 < 1000
    assert choose([reading, decoding]) is decoding


def test_a_replica_where_the_request_failed_is_the_last_choice_but_a_choice() -> None:
    failed, busy = Standing(slot="a", concurrency=2), Standing(slot="b", concurrency=2, in_flight=1)
    assert choose([failed, busy], avoid={"a"}) is busy
    busy.in_flight = 2
    assert choose([failed, busy], avoid={"a"}) is failed


OBJECTIVES = ObjectiveRoute(ttft_milliseconds=100, tpot_milliseconds=10, input_tokens=512, output_tokens=256)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(512, 256, 0.1, 0.01), (1, 0, 1, 0)),
        (Outcome(1, 1, 0.2, None), (0, 1, 0, 0)),
        (Outcome(1, 5, 0.05, 0.011), (1, 0, 0, 1)),
        (Outcome(513, 5, 9.0, 9.0), (0, 0, 0, 0)),
        (Outcome(5, 257, 9.0, 9.0), (0, 0, 0, 0)),
    ],
)
def test_objectives_count_only_requests_within_the_stated_workload(
    outcome: Outcome, expected: tuple[int, ...]
) -> None:
    counts = ObjectiveCounts()
    counts.count(OBJECTIVES, outcome)
    assert (counts.ttft_met, counts.ttft_missed, counts.tpot_met, counts.tpot_missed) == expected


def test_an_objective_that_is_not_set_is_not_counted() -> None:
    counts = ObjectiveCounts()
    unset = ObjectiveRoute(ttft_milliseconds=None, tpot_milliseconds=None, input_tokens=9, output_tokens=9)
    counts.count(unset, Outcome(1, 1, 0.1, 0.1))
    assert counts == ObjectiveCounts()


def test_time_per_output_token_is_the_time_after_the_first_token() -> None:
    assert time_per_output_token(10.0, 12.0, 5) == 0.5
    assert time_per_output_token(10.0, 10.0, 1) is None


def test_a_name_given_twice_goes_to_the_same_model_whatever_the_order_of_the_table() -> None:
    one = make_model(model="a/x", names=("x", "a/x"))
    two = make_model(model="b/x", names=("x", "b/x"))
    for models in ((one, two), (two, one)):
        found = routes_by_name(make_table(*models))
        assert {name: route.model for name, route in found.items()} == {
            "x": "a/x",
            "a/x": "a/x",
            "b/x": "b/x",
        }


def test_the_refusal_of_an_unknown_model_lists_what_exists() -> None:
    assert "there are: a, b" in model_not_found("c", ["a", "b"]).message
    assert "and 5 more" in model_not_found("c", [str(n) for n in range(25)]).message
    assert "none yet" in model_not_found("c", []).message


def test_paths_and_methods_are_told_apart() -> None:
    found = match(b"POST", b"/v1/rerank?x")
    assert isinstance(found, Endpoint)
    assert found.task == "Rerank"
    assert isinstance(match(b"GET", b"/v1/models/team%2Ftiny"), Endpoint)
    for method, target, status in (
        (b"GET", b"/v1/rerank", 405),
        (b"GET", b"/v2", 404),
        (b"POST", b"/health", 405),
    ):
        refused = match(method, target)
        assert isinstance(refused, Refusal)
        assert refused.status == status
    assert paths_for("Embed") == "/v1/embeddings"
    assert paths_for("Rerank") == "/v1/rerank and /v1/score"
    assert paths_for("Generate").startswith("/v1/chat/completions, /v1/responses, ")


def test_only_what_routing_needs_is_read_of_a_body() -> None:
    found = probe_body(
        b'{"messages":[{"model":"inner"}],"model":"m","stream":null,"tools":[1],"max_tokens":7}'
    )
    assert isinstance(found, Probe)
    assert (found.model, found.stream, most_output_tokens(found)) == ("m", None, 7)
    assert bytes(prompt_bytes(found)) == b'[{"model":"inner"}]'
    assert before_prompt(found) == b"[1]"
    plain = probe_body(b'{"model":"m","stream":true,"prompt":"hi"}')
    assert isinstance(plain, Probe)
    assert (plain.stream, bytes(prompt_bytes(plain)), before_prompt(plain)) == (True, b'"hi"', b"")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "missing_body", None),
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b'{"model":"m","other":"\xff"}', "invalid_json", None),
        (b'{"model":"m","other":' + b"[" * 100_000, "invalid_json", None),
        (b"[]", "invalid_field", None),
        (b"{}", "invalid_field", "model"),
        (b'{"model":5}', "invalid_field", "model"),
        (b'{"model":""}', "invalid_field", "model"),
        (b'{"model":"m","stream":"yes"}', "invalid_field", "stream"),
    ],
)
def test_a_body_that_cannot_be_routed_is_refused_by_name(body: bytes, code: str, param: str | None) -> None:
    refused = probe_body(body)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code, refused.param) == (400, code, param)
