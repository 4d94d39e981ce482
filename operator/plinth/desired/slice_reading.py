"""EndpointSlices read back as a route table: the inverse of `endpoint_slices`, run by every gateway's agent.

Reading believes nothing: what anybody may have written by hand is passed over with a reason. A slice speaks for a model
of its own namespace only, so the right to write slices there is no right over others' models.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from plinth.desired.endpoint_slices import (
    MARKER,
    REPLICA,
    ROUTE,
    TABLE_VERSION,
    ReplicaNote,
    Slice,
    header_name,
    model_of,
    replica_name,
)
from plinth.domain.traffic import ModelRoute, ReplicaRoute, ReplicaState, RouteTable

_ROUTE_DECODER = msgspec.json.Decoder(ModelRoute)
_NOTE_DECODER = msgspec.json.Decoder(ReplicaNote)
_PATH = re.compile(r"(/[-._~A-Za-z0-9]+)*")
_HIGHEST_PORT = 65_535
HUNDRED_PERCENT = 100


@dataclass(frozen=True, kw_only=True)
class ReadRoutes:
    """What a set of slices says."""

    table: RouteTable
    """Models and replicas in the order of their names; version 0 without a marker."""
    passed_over: tuple[str, ...]
    """What was not used, each with the reason."""


def route_table(slices: Iterable[Slice], *, release_namespace: str) -> ReadRoutes:
    """The table that the slices say. Between two markers it is on its way to the next version."""
    version = 0
    headers: dict[str, ModelRoute] = {}
    replicas: dict[str, list[ReplicaRoute]] = defaultdict(list)
    passed_over = []
    for each in slices:
        try:
            found = msgspec.convert(each, _Slice)
            if found.is_marker(release_namespace):
                version = found.version()
            elif REPLICA in found.metadata.annotations:
                replicas[found.model].append(found.replica())
            else:
                headers[found.model] = found.header()
        except (_UnusableError, msgspec.MsgspecError) as error:
            passed_over.append(f"{_name_of(each)}: {error}")
    models = []
    for model, header in sorted(headers.items()):
        names, refused = _own_names(header, headers)
        passed_over += refused
        of_model = sorted(replicas.pop(model, ()), key=lambda replica: replica.slot)
        models.append(replace(header, names=names, replicas=tuple(of_model)))
    passed_over += [
        f"{each.slot}: the model {model} has no header" for model, left in replicas.items() for each in left
    ]
    table = RouteTable(version=version, models=tuple(models))
    return ReadRoutes(table=table, passed_over=tuple(sorted(passed_over)))


def marker_version(found: Slice | None) -> int:
    """The version that a marker tells; 0 where there is none, or none that makes sense."""
    try:
        return msgspec.convert(found, _Slice).version()
    except (_UnusableError, msgspec.MsgspecError):
        return 0


def _own_names(header: ModelRoute, headers: Mapping[str, ModelRoute]) -> tuple[tuple[str, ...], list[str]]:
    """The names without those that are another model's `namespace/name`, and why those are left out."""
    taken = [name for name in header.names if name != header.model and name in headers]
    names = tuple(name for name in header.names if name not in taken)
    return names, [f"{header.model}: the name {name} is another model's" for name in taken]


def _may_share(route: ModelRoute) -> bool:
    """Whether the shares stay in the namespace, where alone the callers' right to the model holds, and add up."""
    namespace = route.model.partition("/")[0]
    counts = [(share.percent, share.mirror_percent) for share in route.shares]
    return all(
        share.model.partition("/")[0] == namespace and share.model != route.model for share in route.shares
    ) and all(min(parts) >= 0 and sum(parts) <= HUNDRED_PERCENT for parts in zip(*counts, strict=True))


def _name_of(found: Slice) -> str:
    metadata = found.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    return f"{known.get('namespace', '')}/{known.get('name', '')}"


class _UnusableError(ValueError):
    """A slice that says nothing useful; the text says why."""


class _Metadata(msgspec.Struct):
    namespace: str
    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Conditions(msgspec.Struct):
    ready: bool | None = None
    terminating: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions


class _Port(msgspec.Struct):
    port: int | None = None


class _Slice(msgspec.Struct):
    """The parts of an EndpointSlice that are read."""

    metadata: _Metadata
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None

    @property
    def model(self) -> str:
        return model_of(self.metadata.namespace, self.metadata.labels)

    def is_marker(self, release_namespace: str) -> bool:
        return (self.metadata.namespace, self.metadata.name) == (release_namespace, MARKER)

    def version(self) -> int:
        text = self.metadata.annotations.get(TABLE_VERSION, "0")
        if not (text.isascii() and text.isdecimal()):
            raise _UnusableError(f"{TABLE_VERSION} must be a whole number, not {text!r}")
        return int(text)

    def header(self) -> ModelRoute:
        text = self.metadata.annotations.get(ROUTE)
        if text is None:
            raise _UnusableError(f"it has neither the annotation {ROUTE} nor {REPLICA}")
        route = _ROUTE_DECODER.decode(text)
        self._must_be_named(header_name(self.model))
        if route.model != self.model or route.replicas:
            raise _UnusableError(f"{ROUTE} must be of the model {self.model}, without replicas")
        if not all(":" in name for name in route.adapters):
            raise _UnusableError(f"{ROUTE} must name adapters as NAME:ADAPTER")
        if not _may_share(route):
            raise _UnusableError(
                f"{ROUTE} must give shares of up to 100 percent to models of its own namespace"
            )
        return route

    def replica(self) -> ReplicaRoute:
        note = _NOTE_DECODER.decode(self.metadata.annotations[REPLICA])
        if not note.slot.startswith(self.model.replace("/", ".") + "."):
            raise _UnusableError(f"the slot {note.slot!r} is not one of the model {self.model}")
        self._must_be_named(replica_name(self.model, note.slot))
        if note.concurrency < 1 or not _PATH.fullmatch(note.path):
            raise _UnusableError(f"{REPLICA} must hold a concurrency of at least 1 and a plain path")
        if note.kv_tokens < 0:
            raise _UnusableError(f"{REPLICA} must not hold fewer than 0 kv_tokens")
        host, port, conditions = self._place()
        return ReplicaRoute(
            slot=note.slot,
            host=host,
            port=port,
            path=note.path,
            state=_state(conditions),
            concurrency=note.concurrency,
            kind=note.kind,
            kv_tokens=note.kv_tokens,
            fault=note.fault,
            engine=note.engine,
        )

    def _must_be_named(self, name: str) -> None:
        if self.metadata.name != name:
            raise _UnusableError(f"it must be named {name}")

    def _place(self) -> tuple[str, int, _Conditions]:
        endpoints, ports = self.endpoints or [], self.ports or []
        if len(endpoints) != 1 or len(endpoints[0].addresses) != 1 or len(ports) != 1:
            raise _UnusableError("a replica has exactly one endpoint with one address, and one port")
        port = ports[0].port or 0
        if not 0 < port <= _HIGHEST_PORT:
            raise _UnusableError(f"the port must be between 1 and {_HIGHEST_PORT}")
        return endpoints[0].addresses[0], port, endpoints[0].conditions


def _state(conditions: _Conditions) -> ReplicaState:
    if conditions.terminating:
        return ReplicaState.DRAINING
    return ReplicaState.READY if conditions.ready else ReplicaState.DEAD
