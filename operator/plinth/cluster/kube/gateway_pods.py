"""Which gateways there are, as their pods tell: whom to ask for load reports, and whose silence makes the load unknown.

A gateway that may hold requests must be heard. One that cannot have any (its pod was never ready, has ended, or is lost
for so long that its Service has left it out) must not make the load unknown for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GATEWAY_LABELS = "app.kubernetes.io/component=gateway"
LOST_SECONDS = 30.0
"""Of silence, after which a gateway that is not ready either is given up."""
SLACK_SECONDS = 5.0
"""Past the moment when kubelet kills what does not end."""


@dataclass(frozen=True, kw_only=True)
class GatewayPod:
    """A gateway's pod that has an address and has not ended."""

    uid: str
    name: str
    address: str
    ready: bool
    """Its Service sends requests to it."""
    ends_by: float | None
    """When kubelet will have killed it; None while it is to stay."""


def read_pods(pods: Iterable[Mapping[str, Any]]) -> dict[str, GatewayPod]:
    """The gateways by their pods' uid."""
    found = [_read(pod) for pod in pods]
    return {pod.uid: pod for pod in found if pod is not None}


def must_be_heard(pod: GatewayPod, *, seen_at: float, heard_at: float | None, now: float) -> bool:
    """Whether the load is unknown while this gateway is silent.

    `seen_at` is when this process first knew of it: one that is ending may have requests although it never told us.
    """
    if pod.ready:
        return True
    sign = seen_at if heard_at is None and pod.ends_by is not None else heard_at
    if sign is None or now > sign + LOST_SECONDS:
        return False
    return pod.ends_by is None or now <= pod.ends_by + SLACK_SECONDS


def _read(pod: Mapping[str, Any]) -> GatewayPod | None:
    metadata, status = pod["metadata"], pod.get("status") or {}
    if not status.get("podIP") or status.get("phase") in {"Succeeded", "Failed"}:
        return None
    ends = metadata.get("deletionTimestamp")
    return GatewayPod(
        uid=metadata["uid"],
        name=metadata["name"],
        address=status["podIP"],
        ready=any(
            each.get("type") == "Ready" and each.get("status") == "True"
            for each in status.get("conditions") or []
        ),
        ends_by=datetime.fromisoformat(ends).timestamp() if ends else None,
    )
