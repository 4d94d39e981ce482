"""The route table as EndpointSlices: what the operator writes and every gateway's agent reads (`slice_reading`).

Each model has a *header*, a slice without endpoints that carries all of its route but the replicas, and one slice for
each replica. All stand in the model's namespace and are owned by the ModelDeployment. One more slice, the *marker*,
stands in the release's namespace: it carries a table's version and is written once all others of that table are, so
whoever has seen it has seen them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from plinth.domain.traffic import ModelRoute, ReplicaRoute, ReplicaState

ROUTES_LABEL = "plinth.dev/routes"
FORMAT = "v1"
SELECTOR = f"{ROUTES_LABEL}={FORMAT}"
"""Selects every slice of this module."""
MODEL_LABEL = "plinth.dev/model"
ROUTE = "plinth.dev/route"
REPLICA = "plinth.dev/replica"
TABLE_VERSION = "plinth.dev/table-version"
MARKER = "plinth.table"
LABELS = {
    ROUTES_LABEL: FORMAT,
    "endpointslice.kubernetes.io/managed-by": "plinth.dev",
    # kube-proxy does not watch slices of headless services, so nodes are spared ours.
    "service.kubernetes.io/headless": "",
}
PORT_NAME = "http"
CONDITIONS = {
    ReplicaState.READY: {"ready": True, "serving": True, "terminating": False},
    ReplicaState.DRAINING: {"ready": False, "serving": True, "terminating": True},
    ReplicaState.DEAD: {"ready": False, "serving": False, "terminating": False},
}

Slice = Mapping[str, Any]
Owner = Mapping[str, str]


class ReplicaNote(msgspec.Struct):
    """What of a replica an EndpointSlice has no field for: the annotation `plinth.dev/replica`."""

    slot: str
    path: str
    concurrency: int
    kind: str = ""
    kv_tokens: int = 0
    fault: str = ""
    engine: str = ""


def owner_reference(name: str, uid: str) -> Owner:
    """The ModelDeployment that a model's slices go with."""
    return {"apiVersion": "plinth.dev/v1alpha1", "kind": "ModelDeployment", "name": name, "uid": uid}


def slices_of(route: ModelRoute, owner: Owner) -> list[dict[str, Any]]:
    """One model's slices: the header, then its replicas."""
    return [_header(route, owner), *(_replica_slice(route.model, each, owner) for each in route.replicas)]


def marker(namespace: str, version: int) -> dict[str, Any]:
    """The slice that says: all slices of this version have been written."""
    metadata = {
        "namespace": namespace,
        "name": MARKER,
        "labels": dict(LABELS),
        "annotations": {TABLE_VERSION: str(version)},
    }
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": [], "ports": []}


def is_as_wanted(found: Slice, wanted: Slice) -> bool:
    """Whether a slice in the cluster says what it should; what others noted beside our labels is theirs."""
    has, needs = found["metadata"], wanted["metadata"]
    return bool(
        found.get("addressType") == wanted["addressType"]
        and (found.get("endpoints") or []) == wanted["endpoints"]
        and (found.get("ports") or []) == wanted["ports"]
        and (has.get("labels") or {}).items() >= needs["labels"].items()
        and (has.get("annotations") or {}).items() >= needs["annotations"].items()
        and has.get("ownerReferences") == needs.get("ownerReferences")
    )


def model_of(namespace: str, labels: Mapping[str, str] | None) -> str:
    """The model that a slice speaks for: one of its own namespace, always."""
    return f"{namespace}/{(labels or {}).get(MODEL_LABEL, '')}"


def header_name(model: str) -> str:
    """Names of models have no dots, so that no replica's slice can be taken for another model's header."""
    return f"plinth.{model.partition('/')[2]}"


def replica_name(model: str, slot: str) -> str:
    """`plinth.`, the model, the revision and the ordinal: below 100 characters of the 253 that a name may have."""
    return f"plinth.{slot.removeprefix(model.partition('/')[0] + '.')}"


def _header(route: ModelRoute, owner: Owner) -> dict[str, Any]:
    text = msgspec.json.encode(replace(route, replicas=())).decode()
    return {
        "metadata": _metadata(route.model, header_name(route.model), owner, {ROUTE: text}),
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [],
    }


def _replica_slice(model: str, replica: ReplicaRoute, owner: Owner) -> dict[str, Any]:
    note = ReplicaNote(
        slot=replica.slot,
        path=replica.path,
        concurrency=replica.concurrency,
        kind=replica.kind,
        kv_tokens=replica.kv_tokens,
        fault=replica.fault,
        engine=replica.engine,
    )
    annotations = {REPLICA: msgspec.json.encode(note).decode()}
    return {
        "metadata": _metadata(model, replica_name(model, replica.slot), owner, annotations),
        "addressType": _address_type(replica.host),
        "endpoints": [{"addresses": [replica.host], "conditions": dict(CONDITIONS[replica.state])}],
        "ports": [{"name": PORT_NAME, "port": replica.port, "protocol": "TCP"}],
    }


def _metadata(model: str, name: str, owner: Owner, annotations: dict[str, str]) -> dict[str, Any]:
    namespace, _, own_name = model.partition("/")
    return {
        "namespace": namespace,
        "name": name,
        "labels": {**LABELS, MODEL_LABEL: own_name},
        "annotations": annotations,
        "ownerReferences": [dict(owner)],
    }


def _address_type(host: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(host).version}"
    except ValueError:
        return "FQDN"
