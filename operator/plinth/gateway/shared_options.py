"""What a gateway shares with other gateways by Redis, and how much it remembers itself: flags, and what they mean.

Standalone none is given: then limits are counted, and answers kept, by this gateway alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from plinth.gateway.server.redis import RedisAddress
from plinth.gateway.server.tls import TlsFiles, client_context

CachePlace = Literal["memory", "redis"]
"""Where answers are kept: in this gateway's memory alone, or in Redis too, where other gateways find them."""
CACHE_PLACES: Final[tuple[CachePlace, ...]] = ("memory", "redis")
DEFAULT_PORT: Final = 6379
MOST_TIMEOUT_MS: Final = 10_000
URL_FORM: Final = "redis[s]://[USER@]HOST[:PORT][/DATABASE]"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Which Redis there is, and what it is used for."""

    redis: RedisAddress | None = None
    """Where gateways share their counts, its password not read yet; None where each counts by itself."""
    redis_password_file: Path | None = None
    redis_timeout_ms: int = 50
    """That Redis gets to answer; then it counts as away until it is quick again."""
    cache_bytes: int = 64 * 1024 * 1024
    """For answers kept in memory, and those that several wait for; 0 caches nothing."""
    cache_place: CachePlace = "memory"


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `read_shared` reads."""
    default = Shared()
    parser.add_argument(
        "--redis-url", default="", metavar="URL", help=f"Redis that gateways share counts by: {URL_FORM}"
    )
    parser.add_argument(
        "--redis-password-file", type=Path, metavar="PATH", help="file with the password for Redis"
    )
    for flag, text in (
        ("--redis-tls-ca", "authority of Redis' certificate, PEM, for rediss://; else those of the system"),
        ("--redis-tls-cert", "certificate that Redis is shown"),
        ("--redis-tls-key", "its key"),
    ):
        parser.add_argument(flag, type=Path, metavar="PATH", help=text)
    parser.add_argument(
        "--redis-timeout-ms",
        type=int,
        default=default.redis_timeout_ms,
        help=f"for Redis to answer before it counts as away (default {default.redis_timeout_ms})",
    )
    parser.add_argument(
        "--cache-bytes",
        type=int,
        default=default.cache_bytes,
        help=f"answers kept in memory, as far as policies let them be (default {default.cache_bytes})",
    )
    parser.add_argument(
        "--cache-place",
        choices=CACHE_PLACES,
        default=default.cache_place,
        help=f"where answers are kept: redis shares them between gateways (default {default.cache_place})",
    )


def read_shared(found: argparse.Namespace) -> Shared:
    """What the flags say; no file is read. Raises ValueError naming the flag that is wrong."""
    redis = None
    tls = TlsFiles(certificate=found.redis_tls_cert, key=found.redis_tls_key, authority=found.redis_tls_ca)
    if bool(tls.certificate) != bool(tls.key):
        raise ValueError("--redis-tls-cert and --redis-tls-key go together")
    if found.redis_url:
        redis = _read_url(found.redis_url, tls)
    elif found.redis_password_file is not None:
        raise ValueError("--redis-password-file is of no use without --redis-url")
    elif found.cache_place == "redis":
        raise ValueError("--cache-place=redis needs --redis-url")
    if not 1 <= found.redis_timeout_ms <= MOST_TIMEOUT_MS:
        raise ValueError(
            f"--redis-timeout-ms must be from 1 to {MOST_TIMEOUT_MS}, not {found.redis_timeout_ms}"
        )
    if found.cache_bytes < 0:
        raise ValueError(f"--cache-bytes must not be negative, but is {found.cache_bytes}; 0 caches nothing")
    return Shared(
        redis=redis,
        redis_password_file=found.redis_password_file,
        redis_timeout_ms=found.redis_timeout_ms,
        cache_bytes=found.cache_bytes,
        cache_place=found.cache_place,
    )


def with_password(shared: Shared) -> Shared:
    """The same with the password read from its file, at the start of a process, and certificates tried.

    Raises OSError, ValueError.
    """
    if shared.redis is not None and shared.redis.tls is not None:
        client_context(shared.redis.tls)
    if shared.redis is None or shared.redis_password_file is None:
        return shared
    password = shared.redis_password_file.read_text(encoding="utf-8").strip()
    if not password:
        raise ValueError(f"{shared.redis_password_file} must hold the password for Redis, and is empty")
    return replace(shared, redis=replace(shared.redis, password=password))


def _read_url(url: str, tls: TlsFiles) -> RedisAddress:
    """The address in a URL. Raises ValueError; its text never repeats the URL, which may hold a password."""
    parts = urlsplit(url)
    database = parts.path.removeprefix("/")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if (
        parts.scheme not in {"redis", "rediss"}
        or not parts.hostname
        or port == -1
        or not (database.isdecimal() or not database)
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"--redis-url must be {URL_FORM}")
    if parts.password is not None:
        raise ValueError(
            "--redis-url must hold no password, which every process could see: name its file by"
            " --redis-password-file"
        )
    if parts.scheme == "redis" and tls.present():
        raise ValueError("--redis-tls-… need --redis-url=rediss://…: else certificates would go unused")
    return RedisAddress(
        host=parts.hostname,
        port=DEFAULT_PORT if port is None else port,
        database=int(database or 0),
        username=unquote(parts.username) if parts.username else None,
        tls=tls if parts.scheme == "rediss" else None,
    )
