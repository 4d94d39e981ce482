"""Keys as Secrets: found again as they were, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from plinth.desired.key_secrets import KeySecretError, make_secret, read_secret, tenant_selector
from plinth.tests.domain.test_keys import make_key


def test_a_key_is_read_as_it_was_written() -> None:
    key = make_key(policies=("p",), models=("chat",), expires_at=9.5, priority="bulk")
    secret = make_secret(key, namespace="plinth-keys")
    assert read_secret(secret) == key
    assert secret["metadata"]["name"] == "team-a.ci"
    assert "resourceVersion" not in secret["metadata"]
    assert make_secret(key, namespace="n", version="7")["metadata"]["resourceVersion"] == "7"


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    secret = make_secret(make_key(), namespace="plinth-keys")
    held = json.loads(base64.b64decode(secret["data"]["key.json"])) | {"colour": "blue"}
    secret["data"]["key.json"] = base64.b64encode(json.dumps(held).encode()).decode()
    assert read_secret(secret) == make_key()


@pytest.mark.parametrize("data", [None, {}, {"key.json": "?"}, {"key.json": "e30="}, {"key.json": None}])
def test_a_secret_that_holds_no_key_is_named(data: Any) -> None:
    with pytest.raises(KeySecretError, match=r"team-a\.ci holds no key"):
        read_secret({"metadata": {"name": "team-a.ci"}, "data": data})


def test_a_key_under_another_s_name_is_not_taken() -> None:
    secret = make_secret(make_key("ci", "team-b"), namespace="plinth-keys")
    secret["metadata"]["name"] = "team-a.ci"
    with pytest.raises(KeySecretError, match="holds the key ci of team-b"):
        read_secret(secret)


def test_one_tenant_or_all_are_selected() -> None:
    assert tenant_selector("") == "plinth.dev/keys=v1"
    assert tenant_selector("team-a") == "plinth.dev/keys=v1,plinth.dev/tenant=team-a"
