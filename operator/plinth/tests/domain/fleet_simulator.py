"""A tiny fleet that obeys plans: replicas start, serve, drain, stop and fail as told; what happens is written down.

It stands in for Ray, the gateway and the memory of gather, second by second, so that whole rollouts can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from plinth.desired.statuses import look, model_status
from plinth.domain.fleet import (
    FailureRecord,
    FleetPlan,
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelKey,
    Node,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlan,
)
from plinth.domain.planner import compute_plan
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState
from plinth.tests.domain.builders import make_node

STOP_SECONDS = 2


@dataclass
class SimulatedSlot:
    plan: SlotPlan
    born: int
    ready_at: int
    slot: Slot
    fails: bool = False
    gone_at: int | None = None
    in_flight: int = 0
    stuck_requests: int = 0


@dataclass
class Fleet:
    models: dict[ModelKey, Model]
    nodes: tuple[Node, ...] = field(default_factory=lambda: (make_node(),))
    start_seconds: Callable[[SlotName], int] = lambda _: 3
    fails: Callable[[SlotName], bool] = lambda _: False
    load: dict[ModelKey, int] = field(default_factory=dict)
    reporting: bool = True
    now: int = 0
    slots: dict[SlotName, SimulatedSlot] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    plan: FleetPlan | None = None
    samples: dict[ModelKey, list[tuple[float, int]]] = field(default_factory=dict)
    states: dict[SlotName, ReplicaState] = field(default_factory=dict)
    shuffle: Callable[[list[Slot]], list[Slot]] = lambda slots: slots

    def run(self, seconds: int) -> Fleet:
        for _ in range(seconds):
            self.step()
        return self

    def step(self) -> None:
        self._live()
        snapshot = self.snapshot()
        plan = compute_plan(snapshot, float(self.now))
        self.plan = plan
        self._obey(plan)
        self._remember(snapshot, plan)
        self.now += 1

    def snapshot(self) -> FleetSnapshot:
        slots = [self._observed(each) for each in self.slots.values()]
        return FleetSnapshot(
            pools=(),
            models=tuple(self.models.values()),
            nodes=self.nodes,
            slots=tuple(self.shuffle(slots)),
            report=self._report() if self.reporting else None,
        )

    def ready(self) -> list[Slot]:
        return [each.slot for each in self.slots.values() if each.slot.phase is SlotPhase.READY]

    def serving(self) -> list[SlotName]:
        """What a new request may be sent to."""
        return sorted(
            name
            for name, each in self.slots.items()
            if each.slot.phase is SlotPhase.READY and self.states.get(name) is ReplicaState.READY
        )

    def edit(self, key: ModelKey, change: Callable[[Model], Model]) -> None:
        self.models[key] = change(self.models[key])
        self.note(f"{key} is edited")

    def kill(self, name: SlotName) -> None:
        each = self.slots[name]
        each.slot = replace(each.slot, phase=SlotPhase.FAILED, message="killed by signal 9")
        each.in_flight = 0
        self._count_failure(each)
        self.note(f"{name} dies")

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:>3} s  {text}")

    def _live(self) -> None:
        for name, each in list(self.slots.items()):
            if each.gone_at is not None and self.now >= each.gone_at:
                del self.slots[name]
                self.note(f"{name} is gone")
            elif each.slot.phase is SlotPhase.PENDING and self.now >= each.ready_at:
                self._arrive(each)
        for name, each in self.slots.items():
            each.in_flight = each.stuck_requests if self.states.get(name) is ReplicaState.DRAINING else 0
        for key in self.models:
            self._spread_load(key)
            self.samples.setdefault(key, []).append((float(self.now), self.load.get(key, 0)))
            window = LoadWindow(samples=tuple(self.samples[key]), watched_since=self.samples[key][0][0])
            self.models[key] = replace(self.models[key], window=window if self.reporting else LoadWindow())

    def _arrive(self, each: SimulatedSlot) -> None:
        name = each.plan.name
        model = self.models.get(name.model)
        if each.fails:
            each.slot = replace(each.slot, phase=SlotPhase.FAILED, message="out of memory")
            self._count_failure(each)
            self.note(f"{name} fails")
            return
        each.slot = replace(
            each.slot,
            phase=SlotPhase.READY,
            host="127.0.0.1",
            port=30000 + len(self.slots),
            ready_since=float(self.now),
            running_on=each.plan.node_id,
        )
        if model and model.failure and model.failure.revision == name.revision:
            self.models[name.model] = replace(model, failure=None)
        self.note(f"{name} is ready")

    def _count_failure(self, each: SimulatedSlot) -> None:
        model = self.models.get(each.plan.name.model)
        if model is None:
            return
        before = model.failure
        same = before is not None and before.revision == each.plan.name.revision
        count = before.count + 1 if before and same else 1
        record = FailureRecord(
            revision=each.plan.name.revision, count=count, last_at=self.now, message=each.slot.message
        )
        self.models[model.key] = replace(model, failure=record)

    def _spread_load(self, key: ModelKey) -> None:
        able = [self.slots[name] for name in self.serving() if name.model == key]
        load = self.load.get(key, 0)
        for number, each in enumerate(able):
            each.in_flight = load // len(able) + (1 if number < load % len(able) else 0)

    def _obey(self, plan: FleetPlan) -> None:
        wanted = {slot.name: slot for model in plan.models for slot in model.slots}
        wanted |= {slot.name: slot for slot in plan.leaving}
        asked = {name for name, slot in wanted.items() if slot.action is not SlotAction.REMOVE}
        for name, each in self.slots.items():
            if name not in asked and each.gone_at is None:
                self.note(
                    f"{name} is removed: {wanted[name].reason if name in wanted else 'its model was deleted'}"
                )
                each.gone_at = self.now + STOP_SECONDS
                each.slot = replace(each.slot, phase=SlotPhase.STOPPING)
        for name in sorted(asked - self.slots.keys()):
            self._create(wanted[name])
        self._route(plan)

    def _create(self, plan: SlotPlan) -> None:
        self.note(f"{plan.name} is created on {plan.node_id}")
        slot = Slot(
            name=plan.name,
            spec=plan.spec,
            needs=plan.needs,
            place=plan.place,
            running_on=None,
            phase=SlotPhase.PENDING,
            since=float(self.now),
            replaces=plan.replaces,
        )
        self.slots[plan.name] = SimulatedSlot(
            plan=plan,
            born=self.now,
            ready_at=self.now + self.start_seconds(plan.name),
            slot=slot,
            fails=self.fails(plan.name),
        )

    def _route(self, plan: FleetPlan) -> None:
        states = {
            name: replica.state
            for route in plan.routes.models
            for replica in route.replicas
            if (name := SlotName.parse(replica.slot)) is not None
        }
        for name in sorted(states):
            if states[name] is ReplicaState.DRAINING and self.states.get(name) is not ReplicaState.DRAINING:
                self.slots[name].slot = replace(self.slots[name].slot, draining_since=float(self.now))
                self.note(f"{name} drains")
            elif states[name] is ReplicaState.READY and self.states.get(name) is ReplicaState.DRAINING:
                self.slots[name].slot = replace(self.slots[name].slot, draining_since=None)
                self.note(f"{name} serves again")
        self.states = states

    def _remember(self, snapshot: FleetSnapshot, plan: FleetPlan) -> None:
        seen = look(snapshot, plan)
        for decided in plan.models:
            model = self.models[decided.key]
            status = model_status(decided, model.resource, seen[decided.key], float(self.now))
            self.models[decided.key] = replace(
                model,
                resource=model.resource.model_copy(update={"status": status}),
                answered_revision=status.answered_revision,
            )

    def _observed(self, each: SimulatedSlot) -> Slot:
        return each.slot

    def _report(self) -> LoadReport:
        models = {}
        for key in self.models:
            in_flight = sum(each.in_flight for name, each in self.slots.items() if name.model == key)
            queued = max(0, self.load.get(key, 0) - in_flight)
            models[str(key)] = ModelLoad(in_flight=in_flight, queued=queued, peak=in_flight + queued)
        replicas = {
            str(name): ReplicaLoad(in_flight=self.slots[name].in_flight, state=state)
            for name, state in self.states.items()
            if name in self.slots
        }
        return LoadReport(gateway="g", table_version=1, models=models, replicas=replicas)


def story(lines: Iterable[str], **names: str) -> list[str]:
    """The log with revisions by the names a reader knows: `old`, `new`."""
    told = []
    for line in lines:
        text = line
        for name, revision in names.items():
            text = text.replace(revision, name)
        told.append(text.replace("default.chat.", ""))
    return told
