"""Which replicas get no request for a while because they are out of line with their peers. Pure.

A slow or failing replica is no dead one: it takes connections, and a dead replica is the operator's business. Each
is compared with replicas of its own kind only: an old accelerator beside a new one is slow by nature. How many may
be out at once is bounded, since what slows them all (a flood of long prompts) must not make the rest carry it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high, median_low
from typing import Final

from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.pace import TELLING_ANSWERS, Pace

TIMES_SLOWER: Final = 3.0
"""Than the median of its kind, in reading or in writing."""
SLOW_TPOT_SECONDS: Final = 0.05
"""Streams as fast as this are never slow, whatever their peers do: reading is slower."""
FAILURES_IN_A_ROW: Final = 5
"""Envoy's default for consecutive 5xx answers."""
MOST_OUT: Final = 0.25
"""Part of a model's replicas that may be out at once; at least one may where there are two."""
FIRST_SECONDS: Final = 10.0
LONGEST_SECONDS: Final = 300.0
FORGIVEN_SECONDS: Final = 600.0
"""In line for so long, and the next time counts as the first."""


@dataclass(frozen=True, slots=True)
class Ejection:
    """A replica leaves or comes back."""

    slot: str
    is_out: bool
    reason: str


@dataclass(slots=True)
class _Record:
    until: float = 0.0
    ended_at: float = 0.0
    times: int = 0


class Ejector:
    """Reviews one model's replicas, about once a second, off the data path; sets `Standing.ejected`."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def review(self, standings: Sequence[Standing], now: float) -> list[Ejection]:
        """Lets those back whose time is over, then takes out the worst within the budget.

        One with a faulty accelerator goes first, and stays out while that is so.
        """
        slots = {item.slot for item in standings}
        self._records = {slot: record for slot, record in self._records.items() if slot in slots}
        told = [self._let_back(item, now) for item in standings if self._may_return(item, now)]
        usual = _find_usual(standings)
        faults = [(item, fault) for item in standings if (fault := _find_fault(item, usual))]
        faults.sort(
            key=lambda each: (
                not each[0].fault,
                -each[0].pace.failures,
                each[0].pace.measured(),
                each[0].slot,
            )
        )
        room = budget(len(standings)) - sum(item.ejected for item in standings)
        for item, fault in faults[: max(0, room)]:
            told.append(self._take_out(item, fault, now))
        return told

    def _may_return(self, item: Standing, now: float) -> bool:
        return item.ejected and not item.fault and now >= self._records[item.slot].until

    def _let_back(self, item: Standing, now: float) -> Ejection:
        item.ejected = False
        item.pace.restart(item.pace.rate)  # judged anew, by answers yet to come
        self._records[item.slot].ended_at = now
        return Ejection(item.slot, is_out=False, reason="its time is over")

    def _take_out(self, item: Standing, fault: str, now: float) -> Ejection:
        record = self._records.setdefault(item.slot, _Record())
        if now - record.ended_at >= FORGIVEN_SECONDS:
            record.times = 0
        seconds = min(FIRST_SECONDS * (1 << min(record.times, 8)), LONGEST_SECONDS)
        record.times += 1
        record.until = now + seconds
        item.ejected = True
        return Ejection(item.slot, is_out=True, reason=f"{fault}; out for {seconds:g} s")


def budget(replicas: int) -> int:
    """How many of so many replicas may be out at once.

    >>> [budget(count) for count in (1, 2, 4, 8, 16)]
    [0, 1, 1, 2, 4]
    """
    return max(1, int(replicas * MOST_OUT)) if replicas > 1 else 0


@dataclass(frozen=True, slots=True)
class _Usual:
    """What replicas of a kind do. Of an even number the better of the two in the middle: one of two may be ill."""

    rate: float
    tpot: float


def _find_usual(standings: Sequence[Standing]) -> dict[str, _Usual]:
    proved: dict[str, list[Pace]] = {}
    for item in standings:
        if not item.ejected and item.pace.answers >= TELLING_ANSWERS:
            proved.setdefault(item.kind, []).append(item.pace)
    return {
        kind: _Usual(
            rate=median_high(pace.measured() for pace in paces),
            tpot=median_low([pace.tpot for pace in paces if pace.tpot > 0] or [0.0]),
        )
        for kind, paces in proved.items()
    }


def _find_fault(item: Standing, usual: Mapping[str, _Usual]) -> str | None:
    """Why a replica that gets requests should get none, or None while it is in line."""
    if item.ejected or not item.available:
        return None
    if item.fault:
        return item.fault
    if item.pace.failures >= FAILURES_IN_A_ROW:
        return f"{item.pace.failures} requests in a row failed at it"
    return _find_slowness(item.pace, usual[item.kind]) if item.pace.answers >= TELLING_ANSWERS else None


def _find_slowness(pace: Pace, usual: _Usual) -> str | None:
    rate = pace.measured()
    if rate * TIMES_SLOWER < usual.rate:
        return f"it reads {rate:.0f} prompt tokens a second, its peers {usual.rate:.0f}"
    if pace.tpot > max(SLOW_TPOT_SECONDS, TIMES_SLOWER * usual.tpot):
        return f"it writes a token in {pace.tpot * 1000:.0f} ms, its peers in {usual.tpot * 1000:.0f} ms"
    return None
