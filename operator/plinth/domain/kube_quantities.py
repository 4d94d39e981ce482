"""Kubernetes' quantities as whole numbers and back: `3920m` CPUs, `65536Ki` of memory."""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal, InvalidOperation

from plinth.domain.quantities import MIB

_SUFFIXES = {
    **{
        suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)
    },
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), 1)},
}


def parse_quantity(text: str | float) -> Decimal:
    """The number that a quantity stands for: `1500m` is 1.5, `2Ki` is 2048. Raises ValueError."""
    written = str(text).strip()
    for suffix, factor in _SUFFIXES.items():
        if written.endswith(suffix):
            return _number(written.removesuffix(suffix)) * factor
    return _number(written)


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no quantity; 1500m, 2 or 16Gi would be") from None


def parse_units(text: str | float) -> int:
    """A quantity in whole units, rounded down."""
    return int(parse_quantity(text).to_integral_value(ROUND_DOWN))


def parse_thousandths(text: str | float) -> int:
    """A quantity in thousandths, rounded down: `0.5` CPU is 500."""
    return int((parse_quantity(text) * 1000).to_integral_value(ROUND_DOWN))


def format_memory(size: int) -> str:
    """Bytes as Kubernetes itself would write them, to the MiB below: 17179869184 is `16Gi`.

    The canonical form matters: KubeRay writes quantities back in it, and what differs is written again.
    """
    amount, suffixes = size // MIB, ["Mi", "Gi", "Ti", "Pi"]
    while amount and amount % 1024 == 0 and len(suffixes) > 1:
        amount //= 1024
        suffixes.pop(0)
    return f"{amount}{suffixes[0]}"


def format_cpus(thousandths: int) -> str:
    """CPUs as Kubernetes itself would write them: 1500 is `1500m`, 2000 is `2`."""
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)
