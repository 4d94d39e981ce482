"""Keys as they are kept: what rotating and revoking does to what the gateway admits."""

from __future__ import annotations

import pytest

from plinth.domain.keys import (
    NAME,
    KeyUnknown,
    StoredKey,
    StoredSecret,
    count_by_policy,
    digest_of,
    is_live,
    key_records,
    may_replace,
    revoke,
    rotate,
)

DAY = 86_400.0


def make_key(name: str = "ci", tenant: str = "team-a", /, **more: object) -> StoredKey:
    fields: dict[str, object] = {
        "id": f"pk_{name}",
        "name": name,
        "tenant": tenant,
        "made_at": 0.0,
        "secrets": (StoredSecret(digest="d0", made_at=0.0),),
    }
    return StoredKey(**fields | more)  # type: ignore[arg-type]


def opened(key: StoredKey, now: float) -> set[str]:
    """The digests by which the gateway admits at this time."""
    return {each.digest for each in key_records([key]) if each.expires_at is None or each.expires_at > now}


def test_a_digest_is_sha256_as_everybody_computes_it() -> None:
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_rotated_key_opens_with_both_secrets_until_the_grace_is_over() -> None:
    key = rotate(make_key(), digest="d1", now=100.0, grace_seconds=60.0)
    assert opened(key, 100.0) == opened(key, 159.9) == {"d0", "d1"}
    assert opened(key, 160.0) == {"d1"}
    assert {each.id for each in key_records([key])} == {"pk_ci"}


def test_without_grace_the_old_secret_ends_at_once() -> None:
    key = rotate(make_key(), digest="d1", now=100.0, grace_seconds=0)
    assert [each.digest for each in key.secrets] == ["d1"]


def test_rotating_again_never_lengthens_the_life_of_an_old_secret_and_forgets_the_dead() -> None:
    key = rotate(make_key(), digest="d1", now=0.0, grace_seconds=60.0)
    key = rotate(key, digest="d2", now=30.0, grace_seconds=600.0)
    assert opened(key, 59.0) == {"d0", "d1", "d2"}
    assert opened(key, 61.0) == {"d1", "d2"}
    key = rotate(key, digest="d3", now=100.0, grace_seconds=10.0)
    assert [each.digest for each in key.secrets] == ["d3", "d2", "d1"]
    assert opened(key, 111.0) == {"d3"}


def test_no_secret_outlives_its_key() -> None:
    key = rotate(make_key(expires_at=50.0), digest="d1", now=0.0, grace_seconds=DAY)
    assert opened(key, 49.0) == {"d0", "d1"}
    assert opened(key, 50.0) == set()
    assert is_live(key, 49.0)
    assert not is_live(key, 50.0)


def test_a_revoked_key_opens_nothing_can_not_be_rotated_and_gives_up_its_name() -> None:
    key = revoke(make_key(), now=7.0)
    assert (opened(key, 0.0), key.revoked_at, is_live(key, 8.0)) == (set(), 7.0, False)
    assert revoke(key, now=9.0) == key
    assert may_replace(key)
    assert not may_replace(make_key())
    with pytest.raises(KeyUnknown, match="was revoked"):
        rotate(key, digest="d1", now=8.0, grace_seconds=0)


def test_what_a_key_names_is_of_its_own_tenant_alone() -> None:
    (record,) = key_records([make_key(policies=("standard",), models=("chat",), priority="bulk")])
    assert (record.policies, record.models) == (("team-a/standard",), ("team-a/chat",))
    assert record.priority == "bulk"


def test_records_come_in_one_order_whatever_order_the_store_has() -> None:
    keys = [make_key("b"), make_key("a", "team-b"), make_key("a")]
    assert [each.id for each in key_records(keys)] == ["pk_a", "pk_b", "pk_a"]
    assert key_records(keys) == key_records(keys[::-1])


@pytest.mark.parametrize("name", ["ci", "a", "a-1", "0", "a" * 63])
def test_a_dns_label_is_a_name(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "CI", "-a", "a-", "a.b", "a/b", "a b", "a" * 64, "a\n", "ä"])
def test_anything_else_is_none(name: str) -> None:
    assert not NAME.fullmatch(name)


def test_only_live_keys_count_for_the_policies_they_name_in_their_own_namespace() -> None:
    keys = [
        make_key("one", policies=("standard", "bulk", "bulk")),
        make_key("two", policies=("standard",)),
        make_key("expired", policies=("standard",), expires_at=5.0),
        revoke(make_key("gone", policies=("standard",)), now=1.0),
        make_key("elsewhere", "team-b", policies=("standard",)),
        make_key("free"),
    ]
    assert count_by_policy(keys, now=10.0) == {"team-a/standard": 2, "team-a/bulk": 1, "team-b/standard": 1}
