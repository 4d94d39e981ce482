"""What the gateway is told: for each model its names, whether waiting helps, and where its replicas listen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plinth.api.v1alpha1 import Objectives, Reason
from plinth.domain.draining import is_routable
from plinth.domain.fleet import EngineSpec, Model, ModelKey, Slot, SlotAction, SlotName, SlotPlan
from plinth.domain.naming import ServedNames
from plinth.domain.targets import Refusal
from plinth.domain.traffic import Availability, ModelRoute, ObjectiveRoute, ReplicaRoute, ReplicaState

REFUSED_FROM_FAILURES = 3
"""After so many failed starts in a row, waiting is no longer expected to help."""
STATES = {SlotAction.KEEP: ReplicaState.READY, SlotAction.DRAIN: ReplicaState.DRAINING}


@dataclass(frozen=True, kw_only=True)
class RouteRequest:
    """What a model's route depends on."""

    model: Model
    names: ServedNames
    refusal: Refusal | None
    revision: str
    desired: int
    slots: Mapping[SlotName, Slot]
    plans: tuple[SlotPlan, ...]
    waiting_for: str
    """Why no replica answers yet, for a request that waits in vain."""


def model_route(request: RouteRequest) -> ModelRoute:
    """One model's route. Its replicas: ready ones that stay, and draining ones until they are gone."""
    replicas = replica_routes(request.plans, request.slots)
    availability, message = _availability(
        request, serves=any(r.state is ReplicaState.READY for r in replicas)
    )
    spec = request.model.resource.spec
    return ModelRoute(
        model=str(request.model.key),
        names=request.names.names,
        task=spec.model.task.value,
        created=int(request.model.first_seen),
        availability=availability,
        message=message,
        replicas=replicas,
        objectives=_objectives(spec.objectives),
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


def replica_routes(plans: Iterable[SlotPlan], slots: Mapping[SlotName, Slot]) -> tuple[ReplicaRoute, ...]:
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
            )
        )
    return tuple(routes)


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
