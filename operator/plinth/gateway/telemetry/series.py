"""Counters and histograms with a bounded number of series. Pure.

Counting is an element going up; Prometheus' objects are made at the scrape. A label whose values are many (keys,
policies, tenants) goes through `TopLabels`: those used most have series of their own, the rest is `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

OTHER: Final = "other"
_MOST_SERIES: Final = 4096
"""Label sets of one metric, should a label be unbounded after all; what comes after is left out."""
_CANDIDATES: Final = 8
"""For each series of its own that many values are counted."""
_LEAD: Final = 2
"""A value must be used this many times as much as the weakest with a series of its own to take its place."""


class TopLabels:
    """Gives the values used most a series of their own: `most` of them.

    A series, once there, only grows, and begins at 0 when its value rises: what was counted under `other` stays
    there. When the value falls back, its series ends. So `rate()` is right for every series at any time, and the
    sum over all of them is what was counted while they were there.
    """

    __slots__ = ("_counts", "_most", "_own")

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[str] = set()
        self._counts: dict[str, int] = {}

    def label(self, value: str) -> str:
        """The value itself, or `other`; counts one use of it."""
        self.use(value, 1)
        return value if value in self._own else OTHER

    def use(self, value: str, times: int) -> None:
        """Counts some uses of a value."""
        counts = self._counts
        if value in counts:
            counts[value] += times
        elif len(counts) < self._most * _CANDIDATES:
            counts[value] = times
            if len(self._own) < self._most:
                self._own.add(value)

    def rank(self) -> set[str]:
        """Once a scrape: lets those used most rise. Those that fell are given back: their series must end.

        Counts are halved each time, so that the use of the last few scrapes decides; half of those counted make
        room for others.
        """
        counts = self._counts
        order = sorted(counts, key=lambda value: (-counts[value], value))
        before = set(self._own)
        weakest = sorted(self._own, key=lambda value: (counts.get(value, 0), value))
        for value in order:
            if value in self._own:
                continue
            if len(self._own) < self._most:
                self._own.add(value)
            elif weakest and counts[value] >= _LEAD * max(1, counts.get(weakest[0], 0)):
                self._own.remove(weakest.pop(0))
                self._own.add(value)
            else:
                break
        room = self._most * _CANDIDATES // 2
        self._counts = {value: counts[value] // 2 for value in order[:room] if counts[value] > 1}
        return before - self._own


class Counter:
    """Counts by labels."""

    __slots__ = ("labels", "name", "text", "values")

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1) -> None:
        """Goes up."""
        values = self.values
        if labels in values or len(values) < _MOST_SERIES:
            values[labels] = values.get(labels, 0) + amount

    def end(self, label: str, gone: set[str]) -> None:
        """Ends the series in which this label has one of these values."""
        at = self.labels.index(label)
        for labels in [item for item in self.values if item[at] in gone]:
            del self.values[labels]

    def family(self) -> Metric:
        """As Prometheus wants it."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Series:
    """Counts how often a value was at most each bound."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histogram:
    """A series for each set of labels."""

    __slots__ = ("bounds", "labels", "name", "series", "text")

    def __init__(self, name: str, text: str, *, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self.name, self.text, self.labels, self.bounds = name, text, labels, bounds
        self.series: dict[tuple[str, ...], Series] = {}

    def of(self, labels: tuple[str, ...]) -> Series:
        """The series of these labels; one that is never shown where there are too many."""
        found = self.series.get(labels)
        if found is None:
            found = Series(self.bounds)
            if len(self.series) < _MOST_SERIES:
                self.series[labels] = found
        return found

    def family(self) -> Metric:
        """As Prometheus wants it, without series that have counted nothing."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        names = [f"{bound:g}" for bound in self.bounds] + ["+Inf"]
        for labels, series in self.series.items():
            if any(series.counts):
                buckets = list(zip(names, accumulate(series.counts), strict=True))
                family.add_metric(labels, buckets, sum_value=series.sum)
        return family
