"""What the fleet cycle and the gateway tell each other: the route table one way, the load report the other.

Plain frozen dataclasses, so that the gateway reads them without pydantic. On the wire: one JSON object a line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class ReplicaState(StrEnum):
    """How the gateway treats a replica."""

    READY = "Ready"
    DRAINING = "Draining"
    """Gets no new request; those in flight end in peace."""
    DEAD = "Dead"
    """Its connection broke and none could be made again; gets no new request until the table names it anew."""


class Availability(StrEnum):
    """What a request for a model without a ready replica meets."""

    AVAILABLE = "Available"
    """It is held until a replica is ready (or the queue's limits are reached)."""
    REFUSED = "Refused"
    """It is refused at once with the route's message: waiting would not help."""


@dataclass(frozen=True, kw_only=True)
class ReplicaRoute:
    """Where one replica listens."""

    slot: str
    host: str
    port: int
    path: str
    """Prefix before `/v1/…`, without a slash at its end."""
    state: ReplicaState
    concurrency: int
    """Requests that it was sized for; how many it really holds at once the gateway learns from it."""
    kind: str = ""
    """Accelerator, shape and engine: replicas of one kind should be equally fast."""
    kv_tokens: int = 0
    """What its KV cache holds; 0 where nobody knows."""
    fault: str = ""
    """Why its accelerators are not to be trusted; while others serve, it should get no request."""
    engine: str = ""
    """`VLLM` or `LlamaCpp`, which differ while a model changes from one to the other; empty where nobody knows."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveRoute:
    """The thresholds that the gateway counts requests against; see `Objectives`."""

    ttft_milliseconds: int | None
    tpot_milliseconds: int | None
    input_tokens: int
    output_tokens: int


class Strategy(StrEnum):
    """How a model's replica is chosen for a request."""

    EXPECTED_TTFT = "LeastExpectedTTFT"
    LEAST_LOAD = "LeastLoad"
    LOWEST_LATENCY = "LowestLatency"
    PREFIX_HASH = "PrefixHash"
    FASTEST_FIRST = "FastestFirst"


@dataclass(frozen=True, kw_only=True)
class TrafficShare:
    """The part of a model's requests that another model takes."""

    model: str
    """`namespace/name` of the other."""
    percent: int
    """Of the requests that come by the first model's names, answered by the other."""
    mirror_percent: int
    """Of them copied to the other, whose answers are thrown away."""


@dataclass(frozen=True, kw_only=True)
class ModelRoute:
    """One model: the names it answers to and the replicas that serve it."""

    model: str
    """`namespace/name`."""
    names: tuple[str, ...]
    """Every name a client may ask for; the first is the one listed."""
    task: str
    """`Generate`, `Embed` or `Rerank`."""
    created: int
    """Unix seconds, for `/v1/models`."""
    availability: Availability
    message: str
    """Why, for a request that is refused or waited in vain."""
    replicas: tuple[ReplicaRoute, ...]
    objectives: ObjectiveRoute | None = None
    revision: str = ""
    """Changes with whatever may change its answers: weights, engine, arguments. All revisions that serve now."""
    aliases: tuple[str, ...] = ()
    """Further names, which other models may have too; its engine does not know them."""
    fallbacks: tuple[str, ...] = ()
    """Names of models to ask instead, the best first."""
    adapters: tuple[str, ...] = ()
    """Names of its LoRA adapters, `NAME:ADAPTER` with the first of its names: what clients ask for, and its engine too."""
    strategy: Strategy = Strategy.EXPECTED_TTFT
    session_header: str = ""
    """Requests with the same value of this header, in lower case, prefer the same replica; empty for none."""
    shares: tuple[TrafficShare, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RouteTable:
    """All that the gateway routes by; a new table replaces the old one whole."""

    version: int
    models: tuple[ModelRoute, ...]


@dataclass(frozen=True, kw_only=True)
class ReplicaLoad:
    """One replica as the gateway sees it."""

    in_flight: int
    state: ReplicaState
    detail: str = ""
    """Why it is dead."""


@dataclass(frozen=True, kw_only=True)
class ModelLoad:
    """One model's traffic. Fields ending in `_total` only grow while the gateway process lives."""

    in_flight: int
    """Requests at replicas now."""
    queued: int
    """Requests held in the gateway now."""
    peak: int
    """Highest in_flight + queued since the previous report."""
    arrivals_total: int = 0
    completed_total: int = 0
    failed_total: int = 0
    output_tokens_total: int = 0
    ttft_met_total: int = 0
    ttft_missed_total: int = 0
    tpot_met_total: int = 0
    tpot_missed_total: int = 0


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What the gateway saw; sent at least every 2 s, and at once when a replica dies or a request must be held."""

    gateway: str
    """Identity of the gateway process; a new process starts its totals anew."""
    table_version: int
    """The newest table it has applied; 0 for none."""
    models: dict[str, ModelLoad] = field(default_factory=dict)
    """By `namespace/name`."""
    replicas: dict[str, ReplicaLoad] = field(default_factory=dict)
    """By slot name."""
