"""Who a request's caller is, and what it may ask for."""

from __future__ import annotations

import time

import pytest

from plinth.domain.access import AccessTable, KeyRecord, PolicyRecord
from plinth.domain.keys import digest_of
from plinth.gateway.access.callers import Caller, Gate
from plinth.gateway.protocol.errors import Refusal, error_body

SECRET = b"sk-plinth-alpha"
NOW = 1_800_000_000.0


def make_key(secret: bytes = SECRET, **more: object) -> KeyRecord:
    fields: dict[str, object] = {"id": "pk_alpha", "tenant": "team-a", "digest": digest_of(secret)}
    return KeyRecord(**fields | more)  # type: ignore[arg-type]


def make_gate(*keys: KeyRecord, policies: tuple[PolicyRecord, ...] = (), requires_key: bool = True) -> Gate:
    table = AccessTable(version=1, keys=keys, policies=policies, requires_key=requires_key)
    return Gate(table)


def let_in(gate: Gate, authorization: bytes = b"", api_key: bytes = b"", now: float = NOW) -> Caller:
    found = gate.admit(authorization, api_key, now)
    assert isinstance(found, Caller), found
    return found


def refused(gate: Gate, authorization: bytes = b"", api_key: bytes = b"", now: float = NOW) -> Refusal:
    found = gate.admit(authorization, api_key, now)
    assert isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (b"Bearer " + SECRET, b""),
        (b"bearer " + SECRET, b""),
        (b"BEARER  " + SECRET + b" ", b""),
        (b"", SECRET),
        (b"Basic dXNlcjpwYXNz", SECRET),
    ],
)
def test_a_key_is_known_by_either_header(authorization: bytes, api_key: bytes) -> None:
    assert let_in(make_gate(make_key()), authorization, api_key).id == "pk_alpha"


@pytest.mark.parametrize(
    ("authorization", "api_key", "words"),
    [
        (b"", b"", "no API key was given"),
        (b"Bearer ", b"", "no API key was given"),
        (b"Basic dXNlcjpwYXNz", b"", "no API key was given"),
        (b"Bearer sk-plinth-beta", b"", "not valid"),
        (b"Bearer " + SECRET + b"x", b"", "not valid"),
        (b"Bearer " + SECRET.upper(), b"", "not valid"),
        (b"", b"pk_alpha", "not valid"),
        (b"Bearer " + digest_of(SECRET).encode(), b"", "not valid"),
        (b"Bearer " + b"x" * 10_000, b"", "not valid"),
        (b"Bearer \xff\xfe", b"", "not valid"),
    ],
)
def test_whoever_shows_no_valid_key_hears_401_and_need_not_retry(
    authorization: bytes, api_key: bytes, words: str
) -> None:
    refusal = refused(make_gate(make_key()), authorization, api_key)
    assert (refusal.status, refusal.code, refusal.should_retry) == (401, "invalid_api_key", False)
    assert words in refusal.message


def test_what_was_shown_is_not_repeated() -> None:
    refusal = refused(make_gate(make_key()), b"Bearer sk-proj-somebody-elses")
    assert b"somebody" not in error_body(refusal)


def test_a_key_ends_at_the_second_it_expires() -> None:
    gate = make_gate(make_key(expires_at=NOW))
    assert let_in(gate, b"Bearer " + SECRET, now=NOW - 0.001).id == "pk_alpha"
    refusal = refused(gate, b"Bearer " + SECRET, now=NOW)
    assert refusal.status == 401
    assert "pk_alpha has expired" in refusal.message


def test_both_secrets_of_a_rotated_key_lead_to_one_id() -> None:
    gate = make_gate(make_key(expires_at=NOW + 60), make_key(b"sk-plinth-new"))
    assert let_in(gate, b"Bearer " + SECRET).id == let_in(gate, b"Bearer sk-plinth-new").id
    assert refused(gate, b"Bearer " + SECRET, now=NOW + 61)
    assert let_in(gate, b"Bearer sk-plinth-new", now=NOW + 61)


def test_where_no_key_is_needed_anyone_may_ask_for_everything_and_a_known_key_is_itself() -> None:
    gate = make_gate(make_key(models=("team-a/chat",)), requires_key=False)
    anyone = let_in(gate)
    assert anyone is let_in(gate, b"Bearer sk-no-key-required")
    assert anyone.id == "anonymous"
    assert anyone.terms("team-b/chat") is not None
    known = let_in(gate, b"Bearer " + SECRET)
    assert known.terms("team-b/chat") is None


def test_an_expired_key_is_refused_even_where_none_is_needed() -> None:
    assert refused(make_gate(make_key(expires_at=1.0), requires_key=False), b"Bearer " + SECRET)


def test_an_empty_table_lets_nobody_in() -> None:
    assert refused(make_gate(), b"Bearer " + SECRET).status == 401
    assert refused(make_gate(make_key(digest="")), b"Bearer ").status == 401


def test_a_model_of_the_own_tenant_is_forbidden_and_another_s_does_not_exist() -> None:
    caller = let_in(make_gate(make_key(models=("team-a/chat",))), b"Bearer " + SECRET)
    assert caller.terms("team-a/chat") is not None
    assert caller.terms("team-a/embed") is None
    own = caller.refuse("embed", "team-a/embed", ["chat"])
    assert (own.status, own.code, own.param) == (403, "model_not_allowed", "model")
    others = caller.refuse("secret", "team-b/secret", ["chat"])
    assert (others.status, others.code) == (404, "model_not_found")
    assert "team-b" not in others.message


def test_a_key_has_the_policies_that_it_names_and_no_others() -> None:
    mine, other = PolicyRecord(name="team-a/mine", weight=2), PolicyRecord(name="team-a/other", weight=9)
    gate = make_gate(
        make_key(policies=("team-a/mine", "team-a/gone")),
        make_key(b"sk-plinth-bare", id="pk_bare"),
        policies=(mine, other),
    )
    weights = []
    for secret in (SECRET, b"sk-plinth-bare"):
        terms = let_in(gate, b"Bearer " + secret).terms("team-a/chat")
        assert terms is not None
        weights.append(terms.weight)
    assert weights == [2, 1]


def test_terms_are_computed_once_for_each_model_and_memory_is_bounded() -> None:
    caller = let_in(make_gate(make_key()), b"Bearer " + SECRET)
    assert caller.terms("team-a/m") is caller.terms("team-a/m")
    for number in range(10_000):
        caller.terms(f"team-a/{number}")
    assert len(caller._by_model) <= 4096
    assert caller.terms("team-a/m") is not None


def test_finding_the_caller_and_its_terms_takes_microseconds() -> None:
    """0.8 µs were measured; the bound leaves room for a busy machine."""
    keys = [
        make_key(f"sk-plinth-{n:043}".encode(), id=f"pk_{n}", policies=("team-a/p",)) for n in range(1000)
    ]
    gate = make_gate(*keys, policies=(PolicyRecord(name="team-a/p"),))
    shown = b"Bearer sk-plinth-" + b"%043d" % 7
    best = float("inf")
    for _ in range(5):
        before = time.process_time()
        for _ in range(5_000):
            let_in(gate, shown).terms("team-a/chat")
        best = min(best, time.process_time() - before)
    assert best / 5_000 < 20e-6
