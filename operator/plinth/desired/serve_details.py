"""Ray Serve's answer about its applications, read as slots: how far each one is, where it listens, what it died of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plinth.desired.serve_config import DELETING, parse_slot, replaced_slot
from plinth.domain.fleet import Slot, SlotName, SlotPhase


@dataclass(frozen=True, kw_only=True)
class FoundSlot:
    """A slot as Ray lists it, with the actor whose log tells of its death."""

    slot: Slot
    actor_id: str | None


def read_slots(serve: Mapping[str, Any], *, ray: str = "") -> Iterable[FoundSlot]:
    """Every slot in the answer of one Ray; applications that are not Plinth's are passed over."""
    targets = _replica_targets(serve)
    for name, application in sorted(serve.get("applications", {}).items()):
        slot_name = SlotName.parse(name)
        if slot_name is not None:
            yield _read_slot(slot_name, application, targets.get(name), ray)


def _read_slot(
    name: SlotName, application: Mapping[str, Any], target: Mapping[str, Any] | None, ray: str
) -> FoundSlot:
    config = application.get("deployed_app_config") or {"name": str(name)}
    told = parse_slot(config)
    deployment: Mapping[str, Any] = next(iter((application.get("deployments") or {}).values()), {})
    replicas = deployment.get("replicas", [])
    dead = deployment.get("recent_dead_replicas", [])
    running = next((each for each in replicas if each.get("state") == "RUNNING"), None)
    phase, message = _phase(application, deployment, has_died=bool(dead))
    witness = dead[-1] if dead else next(iter(replicas), {})
    slot = Slot(
        name=name,
        spec=told.spec,
        needs=told.needs,
        place=told.place,
        ray=ray,
        running_on=running.get("node_id") if running else None,
        phase=phase,
        host=target["ip"] if target and running else None,
        port=target["port"] if target and running else None,
        pid=running.get("pid") if running else None,
        replaces=replaced_slot(config),
        message=message,
    )
    return FoundSlot(slot=slot, actor_id=witness.get("actor_id"))


def _phase(
    application: Mapping[str, Any], deployment: Mapping[str, Any], *, has_died: bool
) -> tuple[SlotPhase, str]:
    """What Ray alone can tell. A slot is one replica for ever: once one died in it, it has failed."""
    status = application.get("status")
    if status == DELETING:
        return SlotPhase.STOPPING, ""
    if status in {"DEPLOY_FAILED", "UNHEALTHY"}:
        return SlotPhase.FAILED, _last_line(
            deployment.get("message") or application.get("message") or str(status)
        )
    if has_died:
        return SlotPhase.FAILED, "its process died"
    return SlotPhase.PENDING, _last_line(deployment.get("message") or "")


def _last_line(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _replica_targets(serve: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each application's own replica. One that has none is listed with Serve's proxy: never to be routed to."""
    return {
        group["app_name"]: target
        for group in serve.get("target_groups", [])
        if group.get("protocol") == "HTTP"
        for target in group.get("targets", [])
        if str(target.get("name", "")).startswith("SERVE_REPLICA")
    }
