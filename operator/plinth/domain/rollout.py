"""Which replicas of one model come, stay and go: scaling, replacement and change of revision in one decision.

Each pass looks at what is there and decides anew, so a rollout is no state of its own: it goes on wherever it was
found, and turning back to an older spec simply makes its replicas the wanted ones again.

1. Broken replicas are removed: nothing is routed to them.
2. Of the wanted revision `desired` replicas stay; missing ones are created where they were given a place, surplus ones leave.
3. Old replicas stay while fewer than `desired` new ones are ready: old kept = desired - new ready.
4. Where not even one new replica fits beside the old ones, as many old ones drain as make room for one, one new
   replica at a time, and never more of them once a start of the new revision has failed.
5. What others displace drains; what is moved for others stays until the one in its stead is ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from plinth.domain.allotment import Allotment
from plinth.domain.draining import leave, timeout_at
from plinth.domain.fleet import Node, NodeState, Slot, SlotAction, SlotName, SlotPhase, SlotPlan
from plinth.domain.placing.finding import find_place
from plinth.domain.placing.hosts import Hold, Place
from plinth.domain.placing.room import Room
from plinth.domain.placing.view import option_of
from plinth.domain.quantities import plural
from plinth.domain.sides import RolloutRequest, Sides, free_ordinals


@dataclass(frozen=True, kw_only=True)
class RolloutDecision:
    """Every replica's fate."""

    slots: tuple[SlotPlan, ...]
    shortage: str = ""
    """Why not every wanted replica has a place."""
    awaiting: str = ""
    """Which workers must be up before every wanted replica has one."""
    sentences: tuple[str, ...] = ()
    wakes: tuple[float, ...] = ()


def plan_rollout(request: RolloutRequest, allotment: Allotment) -> RolloutDecision:
    """Every replica's fate in this pass."""
    missing, request = request.missing, allotment.settle(request)
    sides = request.sides
    removed = tuple(_removed(request, slot) for slot in request.slots if slot.name in request.broken)
    created = _create(request, missing, allotment)
    moved = _move(request, islice(request.new_names(), len(missing), None), allotment)
    left = [name for name in missing if name not in {plan.name for plan in created}]
    sacrificed, note = _make_room(request, allotment, left=left, created=len(created))
    plans = [
        *removed,
        *created,
        *moved,
        *(_kept(request, slot) for slot in sides.kept_new),
        *(_kept(request, slot) for slot in sides.kept_old if slot not in sacrificed),
        *(_leave(request, slot, "more than the load asks for") for slot in sides.surplus_new),
        *(_leave(request, slot, _replaced_reason(request)) for slot in sides.spare_old),
        *(_leave(request, slot, f"to make room for {request.target.revision}") for slot in sacrificed),
        *(_leave(request, slot, f"{request.target.revision} is wanted now") for slot in sides.idle_old),
        *_revive(request, allotment),
    ]
    return RolloutDecision(
        slots=tuple(sorted(plans, key=lambda plan: plan.name)),
        shortage=_shortage(request, left, allotment),
        awaiting=_awaiting(created),
        sentences=tuple(filter(None, [*_narrative(request), note])),
        wakes=_wakes(request, plans),
    )


def _create(request: RolloutRequest, missing: Iterable[SlotName], allotment: Allotment) -> list[SlotPlan]:
    """The missing replicas that have a place which nobody need leave first."""
    found = ((name, allotment.plan.placed.get(str(name))) for name in missing)
    why = f"one more of {plural(request.desired, 'wanted replica')}"
    return [
        _created(request, name, placed.place, allotment, why)
        for name, placed in found
        if placed is not None and not placed.after
    ]


def _move(request: RolloutRequest, names: Iterator[SlotName], allotment: Allotment) -> list[SlotPlan]:
    """One more replica in the stead of each that is to be moved; it goes once the new one is ready."""
    moved = [
        (slot.name, allotment.moved[slot.name]) for slot in request.slots if slot.name in allotment.moved
    ]
    return [
        replace(
            _created(request, next(names), move.place, allotment, f"in the stead of {name}"),
            replaces=name,
        )
        for name, move in moved
    ]


def _shortage(request: RolloutRequest, left: Iterable[SlotName], allotment: Allotment) -> str:
    """Why not all that is wanted is there or comes: who was displaced, whom others wait for, what has no place."""
    plan, names = allotment.plan, [str(name) for name in left]
    displaced = [f"{name} {reason}" for name, reason in sorted(request.yielding.items())]
    waiting = [plan.placed[name].after for name in names if name in plan.placed]
    awaited = ", ".join(sorted({replica for after in waiting for replica in after}))
    waits = f"{plural(len(waiting), 'replica')} to come once {awaited} is gone" if waiting else ""
    pending = dict.fromkeys(plan.pending[name] for name in names if name in plan.pending)
    return "; ".join(filter(None, [*displaced, waits, *pending]))


def _awaiting(created: Iterable[SlotPlan]) -> str:
    waiting = [plan for plan in created if plan.action is SlotAction.AWAIT]
    return f"{plural(len(waiting), 'replica')} on workers that are being brought up" if waiting else ""


def _make_room(
    request: RolloutRequest, allotment: Allotment, *, left: Iterable[SlotName], created: int
) -> tuple[tuple[Slot, ...], str]:
    """The old replicas to drain so that one new fits, where none does; and the sentence that says so."""
    sides, names = request.sides, [str(name) for name in left]
    starting = created + len(sides.kept_new) - sides.ready_new
    if not names or starting > 0 or not sides.kept_old or request.failing:
        return (), ""
    if any(name in allotment.plan.placed for name in names):
        return (), "a replica that is leaving makes room for the new revision"
    on: dict[str, list[Slot]] = {}
    for slot in reversed(sides.kept_old):
        # What takes several nodes may need whatever is on each of them.
        on.setdefault(slot.nodes[0] if request.target.needs.nodes == 1 else "", []).append(slot)
    choices = [_victims_of(request, oldest_first, allotment.room) for _, oldest_first in sorted(on.items())]
    able = [victims for victims in choices if victims] or _on_evacuated(request, sides.kept_old)
    if not able:
        return (), ""
    victims = min(able, key=lambda each: (len(each), [slot.name for slot in each]))
    return victims, _sacrifice_note(sides, victims)


def _victims_of(request: RolloutRequest, there: list[Slot], room: Room) -> tuple[Slot, ...]:
    """The fewest of these old replicas whose places, with what will be free, hold one new replica; oldest first."""
    for number in range(1, len(there) + 1):
        gone = room.leaving | {str(slot.name) for slot in there[:number]}
        with room.without(gone) as freed:
            if find_place(freed, request.option, str(request.model)) is not None:
                return tuple(there[:number])
    return ()


def _on_evacuated(request: RolloutRequest, old: tuple[Slot, ...]) -> list[tuple[Slot, ...]]:
    """This model's replicas on the node that is being emptied for its machine's sake, if any."""
    there = tuple(slot for slot in old if not request.evacuated.isdisjoint(slot.nodes))
    return [there] if there else []


def _sacrifice_note(sides: Sides, victims: tuple[Slot, ...]) -> str:
    rest = len(sides.kept_old) + sides.ready_new - len(victims)
    names = ", ".join(str(slot.name) for slot in victims)
    meanwhile = (
        f"{plural(rest, 'replica')} serve meanwhile"
        if rest
        else "requests are held until the new one is ready"
    )
    return f"no room for a new replica beside the old ones: {names} drains first, {meanwhile}"


def _revive(request: RolloutRequest, allotment: Allotment) -> list[SlotPlan]:
    """Replace a broken old replica by its like while the new revision fails to start: the old one keeps serving."""
    revived: list[SlotPlan] = []
    ordinals: dict[str, Iterator[int]] = {}
    serving = request.sides.ready_new + len(request.sides.kept_old)
    for slot in request.slots:
        revision, spec = slot.name.revision, slot.spec
        old = slot.name in request.broken and revision != request.target.revision
        if not old or spec is None or not request.failing or serving >= request.desired:
            continue
        option = option_of(request.target.pool, spec.engine, slot.needs)
        place = find_place(allotment.room, option, str(request.model))
        if place is None or not _are_present(allotment.nodes_at(place)):
            continue
        ordinal = next(ordinals.setdefault(revision, free_ordinals(request.slots, revision)))
        name = SlotName(request.model, revision, ordinal)
        reason = f"replaces {slot.name} while {request.target.revision} does not start"
        revived.append(
            SlotPlan(
                name=name,
                action=SlotAction.CREATE,
                spec=spec,
                needs=slot.needs,
                place=allotment.numbering.told(place),
                reason=reason,
                ray=allotment.nodes_at(place)[0].ray,
            )
        )
        allotment.room.put(Hold(str(name), str(request.model), option.pool, option.gang, place))
        serving += 1
    return revived


def _created(
    request: RolloutRequest, name: SlotName, place: Place, allotment: Allotment, why: str
) -> SlotPlan:
    nodes = allotment.nodes_at(place)
    return SlotPlan(
        name=name,
        action=SlotAction.CREATE if _are_present(nodes) else SlotAction.AWAIT,
        spec=request.target.spec,
        needs=request.target.needs,
        place=allotment.numbering.told(place),
        reason=f"{why}, on {' and '.join(map(_where, nodes))}",
        ray=nodes[0].ray,
    )


def _are_present(nodes: Iterable[Node]) -> bool:
    return all(node.state is NodeState.PRESENT for node in nodes)


def _where(node: Node) -> str:
    if node.state is NodeState.PRESENT:
        return node.address or node.node_id
    return f"a worker of {node.group} that is being brought up"


def _kept(request: RolloutRequest, slot: Slot) -> SlotPlan:
    wanted = request.is_wanted(slot)
    if slot.phase is not SlotPhase.READY:
        reason = f"{slot.phase.lower()}"
    elif wanted:
        reason = "serves"
    elif slot.name in request.misplaced or slot.name in request.moving:
        why = request.misplaced.get(slot.name) or request.moving[slot.name]
        reason = f"serves until another takes its place: {why}"
    else:
        reason = f"serves until {request.target.revision} is ready"
    return SlotPlan.of(slot, SlotAction.KEEP, reason)


def _removed(request: RolloutRequest, slot: Slot) -> SlotPlan:
    return SlotPlan.of(slot, SlotAction.REMOVE, request.broken[slot.name])


def _leave(request: RolloutRequest, slot: Slot, why: str) -> SlotPlan:
    return leave(slot, request.yielding.get(slot.name, why), request.departure)


def _replaced_reason(request: RolloutRequest) -> str:
    if request.sides.ready_new:
        return f"{request.target.revision} serves in its place"
    return "more than the load asks for"


def _narrative(request: RolloutRequest) -> list[str]:
    sides = request.sides
    old = len(sides.kept_old) + len(sides.spare_old)
    if not old or not request.desired:
        return []
    revision, ready = request.target.revision, sides.ready_new
    return [
        f"rollout to {revision}: {ready} of {request.desired} ready, {plural(old, 'old replica')} still there"
    ]


def _wakes(request: RolloutRequest, plans: Iterable[SlotPlan]) -> tuple[float, ...]:
    draining = {plan.name for plan in plans if plan.action is SlotAction.DRAIN}
    dues = [timeout_at(slot, request.departure) for slot in request.slots if slot.name in draining]
    missing_retry = request.retry_at if request.desired else None
    return tuple(due for due in [*dues, missing_retry] if due is not None and due > request.departure.now)
