"""The workers' metrics as one exposition, so that it does not matter which worker is asked. Pure.

Counters and histograms add up, those of dead workers included: a sum that fell would look to Prometheus like a restart,
and everything counted before would be counted again. Of gauges a sum is right for most (requests, connections, bytes);
the others are named by whoever defines them.

A series may end in one worker while others go on with it (labels of which only those used most are shown). What the
first had counted then stays in the sum; the series ends for Prometheus when no worker has it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from operator import add
from typing import Final

from prometheus_client.utils import floatToGoString

format_value: Callable[[float], str] = floatToGoString
Combine = Callable[[float, float], float]
_GROWING: Final = {"counter", "histogram", "summary"}


class _Family:
    """One metric: its comments, and its samples by name and labels."""

    __slots__ = ("kind", "lines", "name", "samples")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = "untyped"
        self.lines: list[str] = []
        self.samples: dict[str, float] = {}

    def add(self, samples: Mapping[str, float], combine: Combine) -> None:
        mine = self.samples
        for series, value in samples.items():
            mine[series] = combine(mine[series], value) if series in mine else value


class MetricsMerge:
    """Merges; remembers what dead workers, and series that have ended, had counted."""

    def __init__(self, gauges: Mapping[str, Combine], ending: AbstractSet[str] = frozenset()) -> None:
        """`gauges`: those that are not to be added up, by name, with what is to be done (`min`, `max`).

        `ending`: counters whose series may end and begin anew.
        """
        self._gauges = gauges
        self._ending = ending
        self._newest: dict[int, dict[str, _Family]] = {}
        self._past: dict[str, _Family] = {}

    def take(self, worker: int, text: str) -> None:
        """A worker's newest exposition."""
        before, now = self._newest.get(worker, {}), _parse(text)
        self._newest[worker] = now
        for name in self._ending:
            if name in before:
                self._merge(self._past, [_ended(before[name], now.get(name))])

    def bury(self, worker: int) -> None:
        """A worker is dead: what it had last shown is kept of all that only grows."""
        found = self._newest.pop(worker, {})
        self._merge(self._past, (family for family in found.values() if family.kind in _GROWING))

    def text(self, own: str = "") -> str:
        """The sum of all, and the parent's `own` metrics."""
        whole: dict[str, _Family] = {}
        self._forget_ended()
        for part in (self._past, *self._newest.values(), _parse(own)):
            self._merge(whole, part.values())
        return "".join(
            "".join(family.lines)
            + "".join(f"{series} {format_value(value)}\n" for series, value in family.samples.items())
            for family in whole.values()
        )

    def _forget_ended(self) -> None:
        for name in self._ending & self._past.keys():
            shown = {
                series for part in self._newest.values() if name in part for series in part[name].samples
            }
            samples = self._past[name].samples
            for series in samples.keys() - shown:
                del samples[series]

    def _merge(self, into: dict[str, _Family], families: Iterable[_Family]) -> None:
        for family in families:
            mine = into.get(family.name)
            if mine is None:
                mine = into[family.name] = _Family(family.name)
                mine.kind, mine.lines = family.kind, family.lines
            mine.add(family.samples, add if family.kind in _GROWING else self._gauges.get(family.name, add))


def _ended(before: _Family, now: _Family | None) -> _Family:
    """The series that are gone since, or have begun anew: they have fallen, which no counter does."""
    gone = _Family(before.name)
    gone.kind, gone.lines = before.kind, before.lines
    samples = now.samples if now is not None else {}
    gone.samples = {
        series: value for series, value in before.samples.items() if samples.get(series, -1.0) < value
    }
    return gone


def _parse(text: str) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    current = _Family("")
    for line in text.split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            name, _, rest = line[7:].partition(" ")
            if current.name != name:
                current = families[name] = _Family(name)
            current.lines.append(line + "\n")
            if line.startswith("# TYPE "):
                current.kind = rest
        elif line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            current.samples[series] = float(value)
    return families
