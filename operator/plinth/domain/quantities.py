"""Quantities as people read them: bytes, counts, money and durations; used wherever a plan explains itself."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

KIB = 2**10
MIB = 2**20
GIB = 2**30
GIGA = 10**9
TERA = 10**12

_BYTE_UNITS = (("TiB", 2**40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
_SECONDS_A_MINUTE = 60
_SECONDS_AN_HOUR = 3600
_COUNT_SHORT_FROM = 10_000
_MICRO = Decimal("0.000001")


def format_bytes(count: int) -> str:
    """Bytes in the largest unit that gives at least one: 31889889034 is `29.7 GiB`, 512 is `512 B`."""
    for unit, size in _BYTE_UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def format_count(count: int) -> str:
    """A count, in thousands from ten thousand on: 775216 is `775k`, 8192 is `8192`."""
    return f"{count // 1000}k" if count >= _COUNT_SHORT_FROM else str(count)


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: 125 is `2 min 5 s`, 3600 is `1 h`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, _SECONDS_AN_HOUR)
    minutes, secs = divmod(rest, _SECONDS_A_MINUTE)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{secs} s" if secs else ""]
    return " ".join([part for part in parts if part][:2]) or "0 s"


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 replica`, `2 replicas`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def list_some(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence, not too many of them.

    >>> list_some(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def multiply_money(price: str, units: int) -> str:
    """Decimal money times a count, without trailing zeros and without floats: `3.90` times 2 is `7.8`."""
    return _plain(Decimal(price) * units)


def scale_money(price: str, numerator: int, denominator: int) -> str:
    """Decimal money times a fraction, to six places: `0.85` times 1000/850 is `1`."""
    return _plain((Decimal(price) * numerator / denominator).quantize(_MICRO))


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def ceil_div(amount: int, divisor: int) -> int:
    """Integer division rounded up."""
    return -(-amount // divisor)
