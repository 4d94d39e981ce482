"""What a QuotaPolicy's status says."""

from __future__ import annotations

from typing import Any

from plinth.api.v1alpha1 import QuotaPolicy
from plinth.desired.policy_status import policy_status
from plinth.tests.api.building import policy_document


def policy(**spec: Any) -> QuotaPolicy:
    document = policy_document("standard", **spec)
    document["metadata"] |= {"namespace": "team-a", "generation": 3}
    return QuotaPolicy.model_validate(document)


def test_it_says_how_many_keys_name_it() -> None:
    status = policy_status(policy(), 2, now=10.0)
    assert status.keys == 2
    assert status.conditions[1].message == "2 keys may use every model"


def test_it_is_accepted_and_ready_with_its_limits_in_words() -> None:
    status = policy_status(policy(models=["chat"], limits={"perKey": {"requestsPerMinute": 60}}), 0, now=10.0)
    assert status.limits == ["each key: 60 requests a minute"]
    assert (status.observed_generation, status.reason) == (3, "Valid")
    assert [(each.type, each.status) for each in status.conditions] == [
        ("Accepted", "True"),
        ("Ready", "True"),
    ]
    assert status.conditions[1].message == "0 keys may use chat"


def test_an_edit_that_was_refused_is_told_while_the_last_good_version_goes_on() -> None:
    status = policy_status(policy(), 0, now=10.0, invalid_edit="spec.models: must name each model once")
    assert (status.reason, status.conditions[0].status) == ("InvalidSpec", "False")
    assert status.conditions[1].status == "True"


def test_nothing_moves_while_nothing_changes() -> None:
    first = policy_status(policy(), 0, now=10.0)
    again = policy_status(policy().model_copy(update={"status": first}), 0, now=99.0)
    assert again == first
