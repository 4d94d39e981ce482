"""What several policies say together."""

from __future__ import annotations

import pytest

from plinth.domain.access import Band, KeyRecord, Limit, PolicyRecord
from plinth.gateway.access.terms import Terms, make_terms

PER_KEY = Limit(dimension="requests", window_seconds=60, amount=100, scope="key")
SHARED = Limit(dimension="totalTokens", window_seconds=86_400, amount=10_000, scope="policy")
PER_MODEL = Limit(dimension="concurrency", window_seconds=0, amount=8, scope="model")


def policy(name: str = "p", **more: object) -> PolicyRecord:
    return PolicyRecord(name=f"a/{name}", **more)  # type: ignore[arg-type]


def terms(
    *policies: PolicyRecord, model: str = "a/chat", models: tuple[str, ...] = (), priority: Band | None = None
) -> Terms | None:
    key = KeyRecord(
        id="pk_1",
        tenant="a",
        digest="",
        policies=tuple(each.name for each in policies),
        models=models,
        priority=priority,
    )
    return make_terms(key, policies, model)


def granted(*policies: PolicyRecord, priority: Band | None = None) -> Terms:
    found = terms(*policies, priority=priority)
    assert found is not None
    return found


def test_a_key_without_policies_may_ask_for_all_of_its_tenant_without_limits() -> None:
    assert terms() == Terms()
    assert terms(model="b/chat") is None
    assert terms(model="aa/chat") is None


def test_a_key_s_own_list_narrows_what_its_policies_open() -> None:
    wide = policy(models=("a/chat", "a/embed"))
    assert terms(wide, models=("a/chat",)) is not None
    assert terms(wide, models=("a/embed",)) is None
    assert terms(policy(models=("a/embed",)), models=("a/chat",)) is None


def test_a_policy_that_does_not_cover_the_model_does_not_count() -> None:
    narrow = policy("narrow", models=("a/embed",), limits=(PER_KEY,), priority="system")
    assert granted(policy(), narrow) == Terms(policy="a/p")
    assert terms(narrow) is None


def test_a_key_whose_policies_are_gone_opens_nothing() -> None:
    key = KeyRecord(id="pk_1", tenant="a", digest="", policies=("a/gone",))
    assert make_terms(key, (), "a/chat") is None


def test_the_limits_of_all_policies_hold_and_are_counted_apart() -> None:
    found = granted(policy("p", limits=(PER_KEY, SHARED, PER_MODEL)), policy("q", limits=(PER_KEY,)))
    assert [(each.scope_id, each.limit) for each in found.limits] == [
        ("a/p|pk_1", PER_KEY),
        ("a/p|", SHARED),
        ("a/p|a/chat", PER_MODEL),
        ("a/q|pk_1", PER_KEY),
    ]


@pytest.mark.parametrize(
    ("given", "own", "band"),
    [
        ((), None, "default"),
        ((None,), None, "default"),
        (("bulk",), None, "bulk"),
        (("bulk", None), None, "bulk"),
        (("bulk", "interactive"), None, "interactive"),
        (("interactive",), "bulk", "bulk"),
        (("interactive",), "system", "interactive"),
        ((), "system", "default"),
        ((), "bulk", "bulk"),
    ],
)
def test_the_most_urgent_policy_counts_and_the_key_can_only_lower_it(
    given: tuple[Band | None, ...], own: Band | None, band: Band
) -> None:
    policies = [policy(str(number), priority=each) for number, each in enumerate(given)]
    assert granted(*policies, priority=own).priority == band


def test_the_greatest_weight_and_the_shortest_wait_count() -> None:
    found = granted(
        policy(weight=3, queue_seconds=60.0), policy("q", weight=2, queue_seconds=9.0), policy("r")
    )
    assert (found.weight, found.queue_seconds) == (3, 9.0)


def test_of_what_is_said_about_the_cache_the_most_careful_counts() -> None:
    everything = policy("all", cache="All", cache_seconds=600)
    some = policy("some", cache="Deterministic", cache_seconds=900)
    found = granted(everything, some, policy("silent"))
    assert (found.cache, found.cache_seconds) == ("Deterministic", 600)
    never = granted(everything, policy("off", cache="Off", cache_seconds=300))
    assert (never.cache, never.cache_seconds) == ("Off", 0)


def test_one_policy_with_limits_that_denies_is_enough() -> None:
    assert granted(policy(), policy("q", limits=(SHARED,), on_backend_away="Deny")).on_backend_away == "Deny"
    assert granted(policy(on_backend_away="Deny")).on_backend_away == "Allow"
