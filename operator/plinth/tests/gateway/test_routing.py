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
from plinth.gateway.routing.choice import Standing, with_room
from plinth.gateway.routing.names import model_not_found
from plinth.gateway.routing.objectives import ObjectiveCounts, Outcome, time_per_output_token

STANDINGS = st.lists(
    st.builds(
        Standing,
        slot=st.sampled_from("abcdefgh"),
        concurrency=st.integers(1, 4),
        available=st.booleans(),
        in_flight=st.integers(0, 6),
        ejected=st.booleans(),
    ),
    unique_by=lambda standing: standing.slot,
)


@given(STANDINGS)
def test_who_has_room_is_available_and_ejected_only_where_no_other_is_available(
    standings: list[Standing],
) -> None:
    present = [item for item in standings if item.available]
    usable = [item for item in present if not item.ejected] or present
    assert with_room(standings) == [item for item in usable if item.in_flight < item.concurrency]


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
