"""Whose silence makes the load unknown, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from plinth.cluster.kube.gateway_pods import (
    LOST_SECONDS,
    SLACK_SECONDS,
    GatewayPod,
    must_be_heard,
    read_pods,
)

NOW = 1_700_000_000.0


def make_pod(**overrides: Any) -> dict[str, Any]:
    status = {"phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]}
    metadata = {"uid": "u", "name": "plinth-gateway-x"} | overrides.pop("metadata", {})
    return {"metadata": metadata, "status": status | overrides}


def read(**overrides: Any) -> GatewayPod | None:
    return read_pods([make_pod(**overrides)]).get("u")


def must(pod: GatewayPod | None, *, heard_at: float | None, now: float, seen_at: float = NOW) -> bool:
    assert pod is not None
    return must_be_heard(pod, seen_at=seen_at, heard_at=heard_at, now=now)


UNREADY: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "False"}]}
ENDS_SOON: dict[str, Any] = UNREADY | {"metadata": {"deletionTimestamp": "2023-11-14T22:13:20Z"}}  # NOW
ENDS_LATER: dict[str, Any] = UNREADY | {"metadata": {"deletionTimestamp": "2023-11-14T23:13:20Z"}}


@pytest.mark.parametrize("over", [{"phase": "Succeeded"}, {"phase": "Failed"}, {"podIP": ""}])
def test_a_pod_that_has_ended_or_has_no_address_is_no_gateway(over: dict[str, str]) -> None:
    assert read(**over) is None


def test_a_ready_gateway_must_be_heard_always() -> None:
    assert must(read(), heard_at=None, now=NOW + 3600)
    assert must(read(), heard_at=NOW, now=NOW + 3600)


def test_one_that_never_was_ready_has_no_requests_to_tell_of() -> None:
    assert not must(read(**UNREADY), heard_at=None, now=NOW)
    assert not must(read(conditions=None), heard_at=None, now=NOW)


@pytest.mark.parametrize("state", [UNREADY, ENDS_LATER], ids=["lost", "lost and ending for an hour"])
def test_one_that_was_heard_is_missed_until_it_is_given_up(state: dict[str, Any]) -> None:
    assert must(read(**state), heard_at=NOW, now=NOW + LOST_SECONDS)
    assert not must(read(**state), heard_at=NOW, now=NOW + LOST_SECONDS + 1)


def test_one_that_was_ending_before_this_process_led_gets_the_time_to_tell() -> None:
    assert must(read(**ENDS_LATER), heard_at=None, now=NOW + LOST_SECONDS)
    assert not must(read(**ENDS_LATER), heard_at=None, now=NOW + LOST_SECONDS + 1)


def test_one_that_kubelet_has_killed_by_now_is_missed_no_longer() -> None:
    assert must(read(**ENDS_SOON), heard_at=NOW, now=NOW + SLACK_SECONDS)
    assert not must(read(**ENDS_SOON), heard_at=NOW, now=NOW + SLACK_SECONDS + 1)
