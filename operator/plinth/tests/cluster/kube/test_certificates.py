"""Pairs of certificates: made, kept in a Secret, and mistrusted when somebody touched them."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509

from plinth.cluster.kube.certificates import (
    LIFE_SECONDS,
    NEXT,
    SKEW_SECONDS,
    make_pair,
    own_authorities,
    read_pair,
    write_pair,
)

NOW = 1_800_000_000.0
NAMES = ("plinth-operator.plinth-system.svc", "127.0.0.1")
DAY = 86_400


def test_a_pair_is_good_for_its_names_from_an_hour_ago_for_ninety_days() -> None:
    pair = make_pair(NAMES, NOW)
    assert pair.names == set(NAMES)
    assert (pair.begins, pair.ends) == (NOW - SKEW_SECONDS, NOW + LIFE_SECONDS)
    assert NOW + 59 * DAY < pair.renew_at < NOW + 60 * DAY


def test_a_pair_comes_back_from_a_secret_as_it_was() -> None:
    one, two = make_pair(NAMES, NOW), make_pair(NAMES, NOW)
    data = write_pair(one) | write_pair(two, NEXT)
    assert (read_pair(data), read_pair(data, NEXT)) == (one, two)
    assert read_pair({}) is None


def test_the_authority_s_key_is_kept_nowhere() -> None:
    pair = make_pair(NAMES, NOW)
    everything = b"".join(base64.b64decode(value) for value in write_pair(pair).values())
    assert everything.count(b"PRIVATE KEY-----") == 2  # the beginning and the end of one
    assert b"PRIVATE" not in pair.authority + pair.certificate


def test_no_log_shows_the_key() -> None:
    assert "PRIVATE" not in repr(make_pair(NAMES, NOW))


@pytest.mark.parametrize("key", ["ca.crt", "tls.crt", "tls.key"])
def test_a_part_of_another_pair_makes_it_none(key: str) -> None:
    mine, other = write_pair(make_pair(NAMES, NOW)), write_pair(make_pair(NAMES, NOW))
    assert read_pair(mine | {key: other[key]}) is None


@pytest.mark.parametrize("value", ["", "%%%", "bm90IGEgY2VydGlmaWNhdGU="])
def test_what_is_no_certificate_makes_it_none(value: str) -> None:
    assert read_pair(write_pair(make_pair(NAMES, NOW)) | {"tls.crt": value}) is None


def test_of_a_bundle_only_our_own_living_authorities_are_kept() -> None:
    old, new = make_pair(NAMES, NOW - LIFE_SECONDS), make_pair(NAMES, NOW)
    foreign = new.certificate
    bundle = old.authority + foreign + new.authority
    assert own_authorities(bundle, NOW - 1) == (old.authority, new.authority)
    assert own_authorities(bundle, NOW) == (new.authority,)
    assert own_authorities(b"", NOW) == own_authorities(b"Cg==", NOW) == ()


def test_an_authority_can_sign_servers_and_no_further_authority() -> None:
    authority = x509.load_pem_x509_certificate(make_pair(NAMES, NOW).authority)
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)
