"""The records of the gateway's benchmark, made of what was seen of each proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import median

from gateway_measures import Seen
from gateway_wire import Answered
from records import Record, this_command

MOST_PACE = 1.1
"""Of a stream's time. A proxy that is later passes on several events at once, which costs it less than they would."""
PLINTH, SPLICED = "plinth", "plinth_spliced"


def make_records(
    seen: Mapping[str, Seen],
    direct: tuple[Answered, Answered],
    *,
    rss: Mapping[str, float],
    notes: Mapping[str, object],
    versions: Mapping[str, str],
) -> list[Record]:
    """Each figure with those of the peers beside it."""
    figures = Figures(seen, direct[1].whole.p50, versions)
    ends = {"wire_alone_requests_per_second": round(direct[0].answered / direct[0].seconds)}
    return [
        figures.requests({**notes, **ends}),
        *figures.ratios(),
        *figures.chunks(resumes=bool(notes.get("plinth_names_tokens"))),
        figures.alone(),
        figures.half_load(),
        figures.record("gateway_worker_rss_mib", rss[PLINTH], "MiB", "<=60", _without(rss, PLINTH)),
    ]


class Figures:
    """Medians over the rounds. `base` is the time of an answer without any proxy, in microseconds."""

    def __init__(self, seen: Mapping[str, Seen], base: int, versions: Mapping[str, str]) -> None:
        self._seen, self._base, self._versions = seen, base, versions

    def record(
        self, metric: str, value: float | None, unit: str, goal: str, peers: Mapping[str, object]
    ) -> Record:
        return Record(
            metric=metric,
            value=None if value is None else float(f"{value:.4g}"),
            unit=unit,
            goal=goal,
            peers=peers,
            versions=self._versions,
            command=this_command(),
        )

    def requests(self, notes: Mapping[str, object]) -> Record:
        found = self._medians("per_cpu_second")
        peers = {
            **_without(found, PLINTH),
            "by_the_clock": _rounded(self._medians("per_second")),
            "cpu_microseconds": {name: round(1e6 / value, 1) for name, value in found.items()},
            "repeats": self._repeats("per_cpu_second"),
            "failed": {name: one.failed for name, one in self._seen.items()},
            **notes,
        }
        return self.record("gateway_requests_per_second_core", found[PLINTH], "1/s", ">=25000", peers)

    def ratios(self) -> Iterator[Record]:
        """How the gateway stands to each peer, round by round, so that a busy machine weighs on both alike."""
        for metric, name, figure, peer, goal in (
            ("gateway_requests_share_of_haproxy", PLINTH, "per_cpu_second", "haproxy", ">=0.4"),
            ("gateway_requests_times_litellm", PLINTH, "per_cpu_second", "litellm", ">=200"),
            ("gateway_requests_times_vllm_router", PLINTH, "per_cpu_second", "vllm-router", ">=1"),
            ("gateway_requests_times_sglang_router", PLINTH, "per_cpu_second", "sglang-router", ">=1"),
            ("gateway_sse_share_of_haproxy", SPLICED, "events_per_cpu_second", "haproxy", ">=0.65"),
        ):
            if peer in self._seen:
                ours, theirs = (getattr(self._seen[one], figure) for one in (name, peer))
                each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
                peers = {"rounds": [float(f"{value:.4g}") for value in each]}
                yield self.record(metric, median(each), "ratio", goal, peers)

    def chunks(self, *, resumes: bool) -> Iterator[Record]:
        """Of streams at their replicas' pace.

        Where nothing asks the replicas to name their tokens, no stream could go on elsewhere: no figure for that.
        """
        found, pace = self._medians("events_per_cpu_second"), self._medians("pace")
        why = {
            name: f"its streams took {late:.2f} of their time"
            for name, late in pace.items()
            if late > MOST_PACE
        }
        if not resumes:
            why[PLINTH] = "its streams do not ask the replicas to name their tokens"
        kept = {name: value for name, value in found.items() if name not in why}
        peers = {
            **_without(kept, PLINTH, SPLICED),
            "cpu_microseconds": {name: round(1e6 / value, 1) for name, value in kept.items()},
            "repeats": self._repeats("events_per_cpu_second"),
            "first_event_microseconds": _rounded(self._medians("first_event")),
            "why_none": why,
        }
        for metric, name, goal in (
            ("gateway_sse_chunks_per_second_core", SPLICED, ">=40000"),
            ("gateway_sse_chunks_resumable_per_second_core", PLINTH, ">=25000"),
        ):
            yield self.record(metric, kept.get(name), "1/s", goal, peers)

    def alone(self) -> Record:
        added = {name: (value - self._base) / 1000 for name, value in self._medians("alone").items()}
        peers = {
            **_without(added, PLINTH),
            "direct_ms": self._base / 1000,
            "repeats_us": self._repeats("alone"),
        }
        return self.record("gateway_added_latency_p50_ms", added[PLINTH], "ms", "<=0.2", peers)

    def half_load(self) -> Record:
        """Goal and figure are of what is added, to the median of an answer without a proxy."""
        added = {name: (value - self._base) / 1000 for name, value in self._medians("half_load").items()}
        peers = {**_without(added, PLINTH), "repeats_us": self._repeats("half_load")}
        return self.record("gateway_added_latency_half_load_p99_ms", added[PLINTH], "ms", "<=2", peers)

    def _medians(self, figure: str) -> dict[str, float]:
        found = {name: one.median_of(figure) for name, one in self._seen.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _repeats(self, figure: str) -> Mapping[str, object]:
        return {name: [round(value) for value in asdict(one)[figure]] for name, one in self._seen.items()}


def _without(found: Mapping[str, float], *names: str) -> dict[str, object]:
    return {name: value for name, value in _rounded(found).items() if name not in names}


def _rounded(found: Mapping[str, float]) -> dict[str, object]:
    return {name: float(f"{value:.4g}") for name, value in found.items()}
