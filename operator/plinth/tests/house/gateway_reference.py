"""Renders docs/reference/gateway.md: the gateway's flags as its command line has them, its metrics as it exposes them.

To write it anew: `python -m plinth.tests.house.gateway_reference > docs/reference/gateway.md`.
"""

import asyncio
import contextlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

from prometheus_client.metrics_core import Metric

from plinth.gateway.options import Limits, Options, parse_options
from plinth.gateway.server.core import Core
from plinth.gateway.server.redis import RedisAddress
from plinth.gateway.shared_options import Shared

_FLAG = re.compile(r"^  (--[\w-]+)(?: (\S+))?\s+(.+)$", re.MULTILINE)
_SIZES = (("MiB", 1024 * 1024), ("KiB", 1024))

_INTRODUCTION = """\
# The gateway's flags and metrics

Made from the program; a test keeps it in step. What stands behind them is told in [the gateway](../concepts/gateway.md). Standalone,
`plinth up` starts the gateway and sets what it needs; in a cluster the chart does, and `gateway.args` takes any flag of this page.

## Flags
"""
_LIMITS = """\
## Limits

Each is a flag. Times are looked at twice a second. Where there are several workers, each has these limits for itself.
"""
_METRICS = """\
## Metrics

On `GET /metrics`: at `--metrics-port` without a key, else where clients ask, with a key if they need one. Beside them stand Prometheus' usual
`process_*`. Several workers are told of as one, with `plinth_gateway_workers`, those that accept clients. `plinth_gateway_shared_counts_away` is there with a Redis or with workers. A
series exists from its first event on. `policy` has the 50 policies used most, the rest is `other`; `band` is the priority in lower
case; `model` is `namespace/name`, and empty for a request that named none that is served.
"""


class NoNews:
    """Nobody is told."""

    def report_now(self) -> None: ...
    def report_soon(self) -> None: ...


def make_core() -> Core:
    """A gateway that knows no models and has a Redis to look for; for a running event loop, to be closed."""
    shared = Shared(redis=RedisAddress(host="127.0.0.1", port=1))
    options = Options(host="", port=0, control=Path("s"), secret_file=Path("f"), shared=shared)
    return Core(secret="secret", options=options, news=NoNews())


def render() -> str:
    """The page."""
    return "\n".join(
        (
            _INTRODUCTION,
            _table(("flag", "meaning"), _other_flags()),
            _LIMITS,
            _table(("flag", "default", "meaning"), _limit_flags()),
            _METRICS,
            _table(("metric", "labels", "kind", "meaning"), asyncio.run(_metrics())),
        )
    )


def _other_flags() -> Iterator[tuple[str, ...]]:
    limits = {_flag(item.name) for item in fields(Limits)}
    for flag, metavar, text in _FLAG.findall(_help()):
        if flag not in limits:
            plain = metavar and metavar != flag.strip("-").upper().replace("-", "_")
            yield f"`{flag}{' ' + metavar if plain else ''}`".replace("|", "\\|"), text.replace("|", "\\|")


def _help() -> str:
    """What `--help` prints, a line for each flag or two."""
    printed = io.StringIO()
    with (
        patch.dict(os.environ, COLUMNS="1000"),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        parse_options(["--help"])
    return printed.getvalue()


def _limit_flags() -> Iterator[tuple[str, ...]]:
    for item in fields(Limits):
        yield f"`{_flag(item.name)}`", _amount(item.name, item.default), item.metadata["help"]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _amount(name: str, amount: object) -> str:
    if name.endswith("_seconds"):
        return f"{amount:g} s"
    if name.endswith("_bytes") and isinstance(amount, int):
        unit, size = next((unit, size) for unit, size in _SIZES if amount % size == 0)
        return f"{amount // size} {unit}"
    return f"{amount:,}"


async def _metrics() -> list[tuple[str, ...]]:
    core = make_core()
    try:
        return sorted(_rows(core.metrics.collect()))
    finally:
        await core.close()


def _rows(families: Iterable[Metric]) -> Iterator[tuple[str, ...]]:
    for family in families:
        labels: tuple[str, ...] = tuple(getattr(family, "_labelnames", ()))
        name = family.name + ("_total" if family.type == "counter" else "")
        yield f"`{name}`", ", ".join(f"`{label}`" for label in labels), family.type, family.documentation


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - the page
