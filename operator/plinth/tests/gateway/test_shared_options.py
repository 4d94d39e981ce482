"""The flags about what gateways share: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from plinth.gateway.server.redis import RedisAddress
from plinth.gateway.server.tls import TlsFiles
from plinth.gateway.shared_options import Shared, add_shared_flags, read_shared, with_password


def read(*flags: str) -> Shared:
    parser = argparse.ArgumentParser()
    add_shared_flags(parser)
    return read_shared(parser.parse_args(flags))


def test_without_flags_nothing_is_shared() -> None:
    assert read() == Shared()
    assert Shared().redis is None


def test_an_address_is_read_with_all_that_a_url_may_say(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("  secret\n")
    flags = ["--redis-password-file", str(tmp_path / "password"), "--cache-place=redis", "--cache-bytes=0"]
    found = read("--redis-url=redis://plinth%40a@cache.example:7000/3", "--redis-timeout-ms=20", *flags)
    assert found == Shared(
        redis=RedisAddress("cache.example", 7000, 3, "plinth@a"),
        redis_password_file=tmp_path / "password",
        redis_timeout_ms=20,
        cache_bytes=0,
        cache_place="redis",
    )
    assert with_password(found).redis == RedisAddress("cache.example", 7000, 3, "plinth@a", "secret")
    assert "secret" not in repr(with_password(found))


def test_a_password_is_read_only_when_a_process_starts_and_must_be_there_then(tmp_path: Path) -> None:
    file = tmp_path / "password"
    found = read("--redis-url=redis://cache", "--redis-password-file", str(file))
    with pytest.raises(FileNotFoundError):
        with_password(found)
    file.write_text("\n")
    with pytest.raises(ValueError, match=f"{file} must hold the password for Redis, and is empty"):
        with_password(found)
    assert with_password(read("--redis-url=redis://cache")).redis == RedisAddress("cache")


@pytest.mark.parametrize(
    "url", ["redis://cache", "redis://cache/", "redis://cache:6379", "redis://cache:6379/0"]
)
def test_port_and_database_have_defaults(url: str) -> None:
    assert read(f"--redis-url={url}").redis == RedisAddress("cache", 6379, 0)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert read("--redis-url=redis://[::1]:7000").redis == RedisAddress("::1", 7000)


@pytest.mark.parametrize(
    "url",
    [
        "cache:6379",
        "http://cache",
        "redis://",
        "redis://cache/x",
        "redis://cache:port",
        "redis://cache:99999",
        "redis://cache?db=1",
        "redis://cache#1",
    ],
)
def test_what_is_no_redis_url_is_refused_with_the_form_it_must_have(url: str) -> None:
    with pytest.raises(ValueError, match=r"--redis-url must be redis\[s\]://\[USER@\]HOST"):
        read(f"--redis-url={url}")


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="--redis-password-file") as refused:
        read("--redis-url=redis://:hunter2@cache")
    assert "hunter2" not in str(refused.value)


def test_tls_is_spoken_to_redis_where_the_url_says_so() -> None:
    assert read("--redis-url=rediss://cache").redis == RedisAddress("cache", tls=TlsFiles())
    files = TlsFiles(certificate=Path("c"), key=Path("k"), authority=Path("a"))
    flags = ("--redis-tls-ca=a", "--redis-tls-cert=c", "--redis-tls-key=k")
    found = read("--redis-url=rediss://cache", *flags)
    assert found.redis == RedisAddress("cache", tls=files)
    with pytest.raises(FileNotFoundError):
        with_password(found)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--redis-password-file=/dev/null"], "of no use without --redis-url"),
        (["--cache-place=redis"], "needs --redis-url"),
        (["--redis-url=redis://cache", "--redis-tls-ca=a"], "need --redis-url=rediss://"),
        (["--redis-url=rediss://cache", "--redis-tls-key=k"], "go together"),
        (["--redis-timeout-ms=0"], "from 1 to 10000, not 0"),
        (["--cache-bytes=-1"], "must not be negative"),
    ],
)
def test_flags_that_make_no_sense_are_refused_by_name(flags: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(*flags)
