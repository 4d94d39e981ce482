"""What the gateway is told: for each model its names, whether waiting helps, and where its replicas listen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from plinth.api.v1alpha1 import Objectives, Reason
from plinth.domain.draining import is_routable
from plinth.domain.fleet import EngineSpec, Model, ModelKey, Slot, SlotAction, SlotName, SlotPlan
from plinth.domain.naming import ServedNames
from plinth.domain.relations import Relations
from plinth.domain.targets import Refusal
from plinth.domain.traffic import (
    Availability,
    ModelRoute,
    ObjectiveRoute,
    ReplicaRoute,
    ReplicaState,
    Strategy,
)

REFUSED_FROM_FAILURES = 3
"""After so many failed starts in a row, waiting is no longer expected to help."""
STATES = {SlotAction.KEEP: ReplicaState.READY, SlotAction.DRAIN: ReplicaState.DRAINING}


@dataclass(frozen=True, kw_only=True)
class RouteRequest:
    """What a model's route depends on."""

    model: Model
    names: ServedNames
    relations: Relations
    refusal: Refusal | None
    revision: str
    wanted: EngineSpec | None
    """What a new replica is told; None where nothing can be planned."""
    desired: int
    slots: Mapping[SlotName, Slot]
    plans: tuple[SlotPlan, ...]
    accelerators: Mapping[str, str]
    """Kind of the accelerators of each node."""
    waiting_for: str
    """Why no replica answers yet, for a request that waits in vain."""


def model_route(request: RouteRequest) -> ModelRoute:
    """One model's route. Its replicas: ready ones that stay, and draining ones until they are gone."""
    replicas = replica_routes(request.plans, request.slots, request.accelerators)
    availability, message = _availability(
        request, serves=any(r.state is ReplicaState.READY for r in replicas)
    )
    spec, serving = request.model.resource.spec, _serving(request, replicas)
    return ModelRoute(
        model=str(request.model.key),
        names=request.names.names,
        task=spec.model.task.value,
        created=int(request.model.first_seen),
        availability=availability,
        message=message,
        replicas=replicas,
        objectives=_objectives(spec.objectives),
        revision=serving.revision,
        aliases=tuple(spec.aliases),
        fallbacks=tuple(spec.fallbacks),
        adapters=serving.adapters,
        strategy=Strategy(spec.routing.strategy.value),
        session_header=(spec.routing.session_header or "").lower(),
        shares=request.relations.shares,
    )


def leaving_route(key: ModelKey, slots: Iterable[Slot], plans: Iterable[SlotPlan]) -> ModelRoute:
    """The route of a deleted model while its last requests end; new ones are refused."""
    present = {slot.name: slot for slot in slots}
    specs = [slot.spec for slot in present.values() if slot.spec and slot.name.model == key]
    return ModelRoute(
        model=str(key),
        names=(str(key),),
        task=specs[0].task if specs else "Generate",
        created=0,
        availability=Availability.REFUSED,
        message=f"the model {key} was deleted",
        replicas=replica_routes(plans, present),
    )


def replica_routes(
    plans: Iterable[SlotPlan],
    slots: Mapping[SlotName, Slot],
    accelerators: Mapping[str, str] | None = None,
) -> tuple[ReplicaRoute, ...]:
    """Where the replicas listen that may get requests or still have some."""
    routes = []
    for plan in sorted(plans, key=lambda each: each.name):
        slot, state = slots.get(plan.name), STATES.get(plan.action)
        if slot is None or state is None or not is_routable(slot) or slot.host is None or slot.port is None:
            continue
        routes.append(
            ReplicaRoute(
                slot=str(slot.name),
                host=slot.host,
                port=slot.port,
                path=f"/{slot.name}",
                state=state,
                concurrency=_concurrency(slot.spec),
                kind=_kind(slot, accelerators or {}),
                kv_tokens=slot.figures.memory.kv_tokens if slot.figures else 0,
                fault=slot.fault,
                engine=slot.spec.engine.value if slot.spec else "",
            )
        )
    return tuple(routes)


class _Serving(NamedTuple):
    """What the replicas have in common that requests go to; of a model without any, what the next will have."""

    revision: str
    adapters: tuple[str, ...]


def _serving(request: RouteRequest, replicas: Iterable[ReplicaRoute]) -> _Serving:
    ready = {replica.slot for replica in replicas if replica.state is ReplicaState.READY}
    slots = [slot for name, slot in request.slots.items() if str(name) in ready]
    told = [slot.spec for slot in slots] or [request.wanted]
    specs = [spec for spec in told if spec is not None]
    adapters = [spec.adapter_names for spec in specs]
    return _Serving(
        revision="+".join(sorted({slot.name.revision for slot in slots})) or request.revision,
        # A replica of an older revision would not know the name.
        adapters=tuple(
            name for name in next(iter(adapters), ()) if all(name in others for others in adapters)
        ),
    )


def _kind(slot: Slot, accelerators: Mapping[str, str]) -> str:
    """As in `H200 TP2 VLLM`, or `CPU TP1 LlamaCpp of 8 threads`."""
    spec = slot.spec
    if spec is None:
        return ""
    threads = f" of {spec.threads} threads" if spec.threads else ""
    return f"{accelerators.get(slot.nodes[0], '')} {spec.shape} {spec.engine}{threads}".strip()


def _concurrency(spec: EngineSpec | None) -> int:
    return spec.concurrency if spec else 1


def _availability(request: RouteRequest, *, serves: bool) -> tuple[Availability, str]:
    if serves:
        return Availability.AVAILABLE, ""
    refusal = request.refusal
    # Nodes may come at any time, so a pool without any is worth waiting for.
    if (
        refusal is not None
        and refusal.known
        and refusal.reason is not Reason.NO_NODES
        and not request.revision
    ):
        return Availability.REFUSED, refusal.message
    failure = request.model.failure
    failing = failure is not None and failure.revision == request.revision
    # At zero replicas nobody retries unless a request is held, so a failed model must not refuse it.
    if failure is not None and failing and failure.count >= REFUSED_FROM_FAILURES and request.desired > 0:
        return Availability.REFUSED, f"the model does not start: {failure.message}"
    return Availability.AVAILABLE, request.waiting_for


def _objectives(objectives: Objectives) -> ObjectiveRoute | None:
    if objectives.ttft_milliseconds is None and objectives.tpot_milliseconds is None:
        return None
    return ObjectiveRoute(
        ttft_milliseconds=objectives.ttft_milliseconds,
        tpot_milliseconds=objectives.tpot_milliseconds,
        input_tokens=objectives.input_tokens,
        output_tokens=objectives.output_tokens,
    )
