"""The parts of a ModelDeployment that say which requests reach it, and which of its replicas answers them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from plinth.api.v1alpha1.meta import DnsLabel, Int, Resource

ServedName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][-._:/a-zA-Z0-9]*$", min_length=1, max_length=128)
]
VersionedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-zA-Z0-9][-._:/a-zA-Z0-9]*(@[a-zA-Z0-9][-._a-zA-Z0-9]*)?$", min_length=1, max_length=128
    ),
]
HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9]*$", min_length=1, max_length=64)
]
AdapterName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][-._a-zA-Z0-9]*$", min_length=1, max_length=63)
]


class RoutingStrategy(StrEnum):
    """How the replica that answers a request is chosen."""

    EXPECTED_TTFT = "LeastExpectedTTFT"
    LEAST_LOAD = "LeastLoad"
    LOWEST_LATENCY = "LowestLatency"
    PREFIX_HASH = "PrefixHash"
    FASTEST_FIRST = "FastestFirst"


class Routing(Resource):
    """How the replica that answers a request is chosen."""

    strategy: RoutingStrategy = RoutingStrategy.EXPECTED_TTFT
    """What is weighed: the wait for the first token, with what each replica has in its cache; load alone; latency
    alone; a hash of the prompt's beginning; or the fastest replicas first, for urgent requests."""
    session_header: HeaderName | None = None
    """Requests with the same value of this header prefer the replica that answered the last of them."""


class Traffic(Resource):
    """The part of another model's requests that this one takes."""

    of: DnsLabel
    """A ModelDeployment of the same namespace. Its requests are shared; this model's own names stay its own."""
    percent: Int = Field(default=0, ge=0, le=100)
    """Of its requests, answered by this model: a canary."""
    mirror_percent: Int = Field(default=0, ge=0, le=100)
    """Of its requests, sent to this model too, whose answers are thrown away: a mirror."""


class Adapter(Resource):
    """A LoRA adapter of the model, asked for as `SERVEDNAME:NAME`."""

    name: AdapterName
    """Its name, unique within the model."""
    source: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Where it comes from, written as `spec.model.source` is: the folder with `adapter_config.json`. The model's token
    opens it too."""
    rank: Int = Field(default=16, ge=1, le=512)
    """At least its rank, `r` in `adapter_config.json`: memory is set aside for adapters of the highest rank in the
    list."""


Aliases = Annotated[list[VersionedName], Field(max_length=16)]
Fallbacks = Annotated[list[VersionedName], Field(max_length=8)]
Adapters = Annotated[
    list[Adapter],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ),
]
