"""QuotaPolicies as the gateway applies them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plinth.api.v1alpha1 import QuotaPolicy
from plinth.api.v1alpha1.quotapolicy import Allowance, CachedAnswers, OnBackendAway, QuotaLimits, Urgency
from plinth.domain.access import BANDS, AccessTable, Limit, PolicyRecord
from plinth.domain.policies import FIELDS, SCOPES, access_table, limit_in_words, policy_record
from plinth.tests.api.apiserver import schema_of, with_defaults
from plinth.tests.api.building import policy_document
from plinth.tests.domain.test_keys import make_key

EVERYTHING: dict[str, Any] = {
    "models": ["chat"],
    "limits": {
        "perKey": {"requestsPerSecond": 2, "concurrency": 8},
        "shared": {"totalTokensPerDay": 10_000},
        "perModel": {"inputTokensPerMinute": 500},
    },
    "priority": "Interactive",
    "queue": {"maxWaitSeconds": 60, "weight": 2},
    "cache": {"answers": "Deterministic", "ttlSeconds": 60},
    "onBackendAway": "Deny",
}


def in_team_a(**spec: Any) -> dict[str, Any]:
    document = policy_document("standard", **spec)
    document["metadata"]["namespace"] = "team-a"
    return document


def test_a_policy_is_read_whole() -> None:
    assert policy_record(in_team_a(**EVERYTHING)) == PolicyRecord(
        name="team-a/standard",
        models=("team-a/chat",),
        limits=(
            Limit(dimension="requests", window_seconds=1, amount=2, scope="key"),
            Limit(dimension="concurrency", window_seconds=0, amount=8, scope="key"),
            Limit(dimension="totalTokens", window_seconds=86_400, amount=10_000, scope="policy"),
            Limit(dimension="inputTokens", window_seconds=60, amount=500, scope="model"),
        ),
        priority="interactive",
        queue_seconds=60.0,
        weight=2,
        cache="Deterministic",
        cache_seconds=60,
        on_backend_away="Deny",
    )


@pytest.mark.parametrize("spec", [{}, EVERYTHING, {"cache": {"answers": "All"}}, {"queue": None}])
def test_the_api_server_and_a_folder_give_equal_records(spec: dict[str, Any]) -> None:
    document = in_team_a(**spec)
    written = QuotaPolicy.model_validate(document).model_dump(mode="json", by_alias=True)
    filled = with_defaults(schema_of("QuotaPolicy"), {k: v for k, v in document.items() if v is not None})
    assert policy_record(written) == policy_record(filled)


def test_every_field_of_an_allowance_and_every_choice_is_understood() -> None:
    aliases = {field.alias for field in Allowance.model_fields.values()}
    assert set(FIELDS) == aliases
    assert set(SCOPES) == {field.alias or name for name, field in QuotaLimits.model_fields.items()}
    assert {each.value.lower() for each in Urgency} == set(BANDS)
    for answers in CachedAnswers:
        assert policy_record(in_team_a(cache={"answers": answers.value})).cache == answers
    for choice in OnBackendAway:
        assert policy_record(in_team_a(onBackendAway=choice.value)).on_backend_away == choice


def test_what_a_policy_does_not_say_it_leaves_to_others() -> None:
    silent = PolicyRecord(name="default/standard")
    assert policy_record(policy_document()) == silent
    assert policy_record(policy_document(cache={"ttlSeconds": 9}, queue={})) == silent


def test_the_table_crosses_the_wire_unchanged_and_does_not_depend_on_order() -> None:
    keys, policies = [make_key("a"), make_key("b")], [policy_document("p"), policy_document("q")]
    table = access_table(keys, policies, requires_key=True, version=3)
    assert table == access_table(keys[::-1], policies[::-1], requires_key=True, version=3)
    assert msgspec.json.decode(msgspec.json.encode(table), type=AccessTable) == table


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (
            Limit(dimension="requests", window_seconds=60, amount=60, scope="key"),
            "each key: 60 requests a minute",
        ),
        (
            Limit(dimension="requests", window_seconds=3600, amount=9, scope="policy"),
            "all keys together: 9 requests an hour",
        ),
        (
            Limit(dimension="totalTokens", window_seconds=86_400, amount=5, scope="model"),
            "all keys together on each model: 5 tokens a day",
        ),
        (
            Limit(dimension="concurrency", window_seconds=0, amount=8, scope="key"),
            "each key: 8 requests at once",
        ),
    ],
)
def test_a_limit_reads_as_a_sentence(limit: Limit, words: str) -> None:
    assert limit_in_words(limit) == words
