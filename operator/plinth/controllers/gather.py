"""First step of a pass: put the world into one FleetSnapshot. Reads everything, decides nothing.

"No answer" is an explicit result: a missing load report is None, a silent Ray sets `capacity_known` to False and
leaves the nodes and slots as they were last seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.ray_rest import CapacityAway
from plinth.controllers.memory import Memory
from plinth.controllers.ports import DesiredModel, Ports, Resources
from plinth.desired.serve_config import parse_slot
from plinth.domain.fleet import EngineReport, FleetSnapshot, Model, ModelKey, Node, Slot, SlotName, SlotPhase
from plinth.domain.traffic import LoadReport, ReplicaState
from plinth.engine.logs import select_lines

REPORT_MAX_AGE_SECONDS = 10.0
READY_POLL_SECONDS = 5.0
LOG_LINES_READ = 200


@dataclass
class Gatherer:
    """Reads the ports; keeps the last answers of replicas and of Ray, for when they are silent."""

    ports: Ports
    memory: Memory = field(default_factory=Memory)
    serve: Mapping[str, Any] | None = None
    """Ray's last answer about applications, which a PUT is compared with; None before the first one."""
    _nodes: tuple[Node, ...] = ()
    _slots: tuple[Slot, ...] = ()
    _reports: dict[SlotName, tuple[float, EngineReport]] = field(default_factory=dict)
    _death_notes: dict[SlotName, str] = field(default_factory=dict)

    async def gather(self, now: float) -> tuple[FleetSnapshot, Resources]:
        """The snapshot, and the resources with the statuses they had before."""
        resources = self.ports.store.read(now)
        report = self._load_report(now, resources)
        capacity_known = await self._observe(now)
        slots = tuple(self._with_drain_time(slot, report, now) for slot in self._slots)
        self.memory.take_slots(slots, now)
        slots = tuple(
            replace(
                slot,
                since=self.memory.first_seen[slot.name],
                ready_since=self.memory.ready_since.get(slot.name),
            )
            for slot in slots
        )
        snapshot = FleetSnapshot(
            pools=resources.pools,
            models=tuple(self._model(desired) for desired in resources.models),
            nodes=self._nodes,
            slots=slots,
            report=report,
            capacity_known=capacity_known,
        )
        self.ports.models.forget_all_but(desired.resource for desired in resources.models)
        return snapshot, resources

    def _load_report(self, now: float, resources: Resources) -> LoadReport | None:
        latest = self.ports.gateway.latest_report()
        report, at = latest if latest and now - latest[1] <= REPORT_MAX_AGE_SECONDS else (None, 0.0)
        quiet = {key_of(each.resource): each.resource.spec.scaling.quiet_seconds for each in resources.models}
        self.memory.take_report(report, at, quiet)
        return report

    async def _observe(self, now: float) -> bool:
        try:
            observation = await self.ports.capacity.observe()
        except CapacityAway:
            return False
        self.serve = observation.serve
        self._nodes = observation.nodes
        known = {slot.name: slot for slot in self._slots}
        found = [_keep_place(each, known.get(each.slot.name)) for each in read_slots(observation.serve)]
        self._forget_all_but(slot.slot.name for slot in found)
        self._slots = tuple(await asyncio.gather(*(self._complete(each, now) for each in found)))
        return True

    async def _complete(self, found: FoundSlot, now: float) -> Slot:
        """Add what the replica says of itself, or why it died, to what Ray says."""
        slot = found.slot
        if slot.phase is SlotPhase.FAILED:
            return replace(slot, message=await self._death_note(found))
        if slot.phase is SlotPhase.STOPPING or slot.host is None or slot.port is None:
            return slot
        report = await self._replica_report(slot, now)
        if report is None:
            return slot
        return replace(
            slot,
            phase=report.phase,
            bytes_done=report.bytes_done,
            bytes_total=report.bytes_total,
            eta_seconds=report.eta_seconds,
            message="\n".join(filter(None, [report.message, *report.log_lines])),
        )

    async def _replica_report(self, slot: Slot, now: float) -> EngineReport | None:
        at, known = self._reports.get(slot.name, (0.0, None))
        if known is not None and known.phase is SlotPhase.READY and now - at < READY_POLL_SECONDS:
            return known
        report = await self.ports.replicas.report(slot.host or "", slot.port or 0, str(slot.name))
        if report is None:
            # Silence is no verdict: a busy engine may be slow. The gateway's connection tells when it died.
            return known
        self._reports[slot.name] = (now, report)
        return report

    async def _death_note(self, found: FoundSlot) -> str:
        """Ray's word and the process's last meaningful lines, read once a slot."""
        name = found.slot.name
        if name not in self._death_notes:
            last = self._reports.get(name)
            lines = list(last[1].log_lines) if last else []
            if not lines and found.actor_id:
                try:
                    text = await self.ports.capacity.read_log(found.actor_id, lines=LOG_LINES_READ)
                    lines = list(select_lines(text))
                except CapacityAway:
                    lines = []
            self._death_notes[name] = "\n".join([found.slot.message, *lines]).strip()
        return self._death_notes[name]

    def _with_drain_time(self, slot: Slot, report: LoadReport | None, now: float) -> Slot:
        load = report.replicas.get(str(slot.name)) if report else None
        if load is not None and load.state is not ReplicaState.DRAINING:
            self.memory.draining_since.pop(slot.name, None)
        elif load is not None:
            self.memory.draining_since.setdefault(slot.name, now)
        return replace(slot, draining_since=self.memory.draining_since.get(slot.name))

    def _model(self, desired: DesiredModel) -> Model:
        key = key_of(desired.resource)
        return Model(
            key=key,
            resource=desired.resource,
            first_seen=desired.first_seen,
            artifact=self.ports.models.read(desired.resource),
            answered_revision=desired.resource.status.answered_revision,
            window=self.memory.window(key),
            failure=self.memory.of(key).failures.get(desired.resource.status.revision),
            invalid_edit=desired.invalid_edit,
        )

    def _forget_all_but(self, names: Iterable[SlotName]) -> None:
        kept = set(names)
        for cache in (self._reports, self._death_notes):
            for gone in cache.keys() - kept:
                del cache[gone]


@dataclass(frozen=True, kw_only=True)
class FoundSlot:
    """A slot as Ray lists it, with the actor whose log tells of its death."""

    slot: Slot
    actor_id: str | None


def _keep_place(found: FoundSlot, known: Slot | None) -> FoundSlot:
    """Ray forgets the config of what it is deleting, yet the replica holds its place until it is gone."""
    if found.slot.phase is not SlotPhase.STOPPING or known is None:
        return found
    slot = replace(found.slot, spec=known.spec, needs=known.needs, node_id=known.node_id)
    return replace(found, slot=slot)


def key_of(resource: ModelDeployment) -> ModelKey:
    """A resource's key."""
    return ModelKey(resource.metadata.namespace, resource.metadata.name)


def read_slots(serve: Mapping[str, Any]) -> Iterable[FoundSlot]:
    """Every slot in Ray's answer; applications that are not Plinth's are passed over."""
    targets = _replica_targets(serve)
    for name, application in sorted(serve.get("applications", {}).items()):
        slot_name = SlotName.parse(name)
        if slot_name is not None:
            yield _read_slot(slot_name, application, targets.get(name))


def _read_slot(name: SlotName, application: Mapping[str, Any], target: Mapping[str, Any] | None) -> FoundSlot:
    _, spec, needs, node_id = parse_slot(application.get("deployed_app_config") or {"name": str(name)})
    deployment: Mapping[str, Any] = next(iter((application.get("deployments") or {}).values()), {})
    replicas = deployment.get("replicas", [])
    dead = deployment.get("recent_dead_replicas", [])
    running = next((each for each in replicas if each.get("state") == "RUNNING"), None)
    phase, message = _phase(application, deployment, has_died=bool(dead))
    witness = dead[-1] if dead else next(iter(replicas), {})
    slot = Slot(
        name=name,
        spec=spec,
        needs=needs,
        node_id=node_id,
        running_on=running.get("node_id") if running else None,
        phase=phase,
        host=target["ip"] if target and running else None,
        port=target["port"] if target and running else None,
        pid=running.get("pid") if running else None,
        message=message,
    )
    return FoundSlot(slot=slot, actor_id=witness.get("actor_id"))


def _phase(
    application: Mapping[str, Any], deployment: Mapping[str, Any], *, has_died: bool
) -> tuple[SlotPhase, str]:
    """What Ray alone can tell. A slot is one replica for ever: once one died in it, it has failed."""
    status = application.get("status")
    if status == "DELETING":
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
