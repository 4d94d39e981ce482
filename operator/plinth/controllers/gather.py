"""First step of a pass: put the world into one FleetSnapshot. Reads everything, decides nothing.

"No answer" is an explicit result: a missing load report is None, a Ray that is silent is marked so and its nodes and
slots stay as they were last seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.capacity import CapacityObservation
from plinth.controllers.memory import Memory
from plinth.controllers.ports import DesiredModel, Ports, Resources
from plinth.controllers.rays import RayView
from plinth.controllers.replica_reports import ReplicaReports
from plinth.domain.fleet import FleetSnapshot, Model, ModelKey, Node, Ray, Slot, SlotName
from plinth.domain.traffic import LoadReport, ReplicaState

REPORT_MAX_AGE_SECONDS = 10.0
_Times = tuple[float, float | None, float | None]
_Dated = tuple[Slot, _Times, Slot]
"""A slot as found, since when it is there, ready and draining, and the slot with these times."""


@dataclass
class Gatherer:
    """Reads the ports; keeps the last answers of replicas and of each Ray, for when they are silent."""

    ports: Ports
    memory: Memory = field(default_factory=Memory)
    rays: dict[str, RayView] = field(default_factory=dict)
    """Each Ray as last seen, by name."""
    replicas: ReplicaReports = field(init=False)
    _idle_nodes: dict[str, tuple[Node, Node]] = field(default_factory=dict)
    _slots_dated: dict[SlotName, _Dated] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.replicas = ReplicaReports(self.ports)

    async def gather(self, now: float) -> tuple[FleetSnapshot, Resources]:
        """The snapshot, and the resources with the statuses they had before."""
        resources = self.ports.store.read(now)
        report = self._load_report(now, resources)
        observation = await self.ports.capacity.observe()
        slots = self._dated(await self._slots(observation, now), report, now)
        snapshot = FleetSnapshot(
            pools=resources.pools,
            models=tuple(self._model(desired) for desired in resources.models),
            nodes=self._nodes(observation, slots, now),
            slots=slots,
            report=report,
            rays=tuple(self._ray(view) for view in self.rays.values()),
            unreadable=resources.unreadable,
            troubles=observation.troubles,
        )
        self.ports.models.forget_all_but(desired.resource for desired in resources.models)
        return snapshot, resources

    def _load_report(self, now: float, resources: Resources) -> LoadReport | None:
        latest = self.ports.gateway.latest_report()
        report, at = latest if latest and now - latest[1] <= REPORT_MAX_AGE_SECONDS else (None, 0.0)
        quiet = {key_of(each.resource): each.resource.spec.scaling.quiet_seconds for each in resources.models}
        self.memory.take_report(report, at, quiet)
        return report

    async def _slots(self, observation: CapacityObservation, now: float) -> tuple[Slot, ...]:
        """What each Ray lists, completed by what the replicas say; of a silent one, what was seen last."""
        views = {each.name: self.rays.get(each.name, RayView(each)).next(each) for each in observation.rays}
        self.rays = views
        answering = [view for view in views.values() if view.answers]
        found = [each for view in answering for each in view.found]
        completed = {slot.name: slot for slot in await self.replicas.complete(found, now)}
        for view in answering:
            view.slots = tuple(completed[each.slot.name] for each in view.found)
        self.replicas.forget_all_but(slot.name for view in views.values() for slot in view.slots)
        return tuple(slot for view in views.values() for slot in view.slots)

    def _dated(self, slots: Iterable[Slot], report: LoadReport | None, now: float) -> tuple[Slot, ...]:
        """The slots with the times at which things began, as far back as this process remembers."""
        found = tuple(slots)
        if report is not None:
            for slot in found:
                self._note_drain(slot, report, now)
        self.memory.take_slots(found, now)
        self.memory.take_speeds(report, found)
        known, self._slots_dated = self._slots_dated, {}
        for slot in found:
            self._slots_dated[slot.name] = self._date(slot, known.get(slot.name))
        return tuple(self._slots_dated[slot.name][2] for slot in found)

    def _date(self, slot: Slot, known: _Dated | None) -> _Dated:
        """The slot with its times; the same object for the same slot."""
        memory, name = self.memory, slot.name
        times = (memory.first_seen[name], memory.ready_since.get(name), memory.draining_since.get(name))
        if known is not None and known[0] is slot and known[1] == times:
            return known
        since, ready_since, draining_since = times
        dated = replace(slot, since=since, ready_since=ready_since, draining_since=draining_since)
        return slot, times, dated

    def _nodes(
        self, observation: CapacityObservation, slots: tuple[Slot, ...], now: float
    ) -> tuple[Node, ...]:
        nodes = [*(node for view in self.rays.values() for node in view.nodes), *observation.potential]
        held = {node_id for slot in slots for node_id in slot.nodes}
        idle = self.memory.take_idle((node.node_id for node in nodes if node.node_id not in held), now)
        for gone in self._idle_nodes.keys() - idle.keys():
            del self._idle_nodes[gone]
        return tuple(node if node.node_id in held else self._idle(node, idle[node.node_id]) for node in nodes)

    def _idle(self, node: Node, since: float) -> Node:
        """The node with its time of idleness; the same object for the same node, of which a fleet has thousands."""
        known = self._idle_nodes.get(node.node_id)
        if known is None or known[0] is not node or known[1].idle_since != since:
            known = self._idle_nodes[node.node_id] = (node, replace(node, idle_since=since))
        return known[1]

    @staticmethod
    def _ray(view: RayView) -> Ray:
        seen = view.observation
        return Ray(
            name=seen.name, pool=seen.pool, answers=view.answers, seen=view.seen, retiring=seen.retiring
        )

    def _note_drain(self, slot: Slot, report: LoadReport, now: float) -> None:
        load = report.replicas.get(str(slot.name))
        if load is not None and load.state is not ReplicaState.DRAINING:
            self.memory.draining_since.pop(slot.name, None)
        elif load is not None:
            self.memory.draining_since.setdefault(slot.name, now)

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
            stretches=self.memory.of(key).speeds.stretches,
            correction=self.memory.of(key).correction,
        )


def key_of(resource: ModelDeployment) -> ModelKey:
    """A resource's key."""
    return ModelKey(resource.metadata.namespace, resource.metadata.name)
