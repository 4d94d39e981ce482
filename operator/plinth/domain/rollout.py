"""Which replicas of one model come, stay and go: scaling, replacement and change of revision in one decision.

Each pass looks at what is there and decides anew, so a rollout is no state of its own: it goes on wherever it was
found, and turning back to an older spec simply makes its replicas the wanted ones again.

1. Broken replicas are removed: nothing is routed to them.
2. Of the wanted revision `desired` replicas stay; missing ones are created where a whole one fits, surplus ones leave.
3. Old replicas stay while fewer than `desired` new ones are ready: old kept = desired - new ready.
4. Where not even one new replica fits beside the old ones, as many old ones drain as make room for one, one new
   replica at a time, and never more of them once a start of the new revision has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from plinth.domain.draining import Departure, leave, timeout_at
from plinth.domain.fleet import ModelKey, Node, NodeState, Slot, SlotAction, SlotName, SlotPhase, SlotPlan
from plinth.domain.placement import Holding, PlacementRequest, Room, explain_shortage, find_place
from plinth.domain.quantities import plural
from plinth.domain.targets import Target


@dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """One model's replicas and what is wanted of them."""

    model: ModelKey
    target: Target
    desired: int
    slots: tuple[Slot, ...]
    """All found at Ray, stopping ones included."""
    broken: Mapping[SlotName, str]
    failing: bool
    """Whether the newest start of the wanted revision failed."""
    retry_at: float | None
    """No replica of the wanted revision is created before; None: at once."""
    departure: Departure
    room: Room
    """What is created takes its place there."""
    misplaced: Mapping[SlotName, str] = field(default_factory=dict)
    """Replicas that must go elsewhere though they are as wanted, and why."""
    evacuated: frozenset[str] = frozenset()
    """Nodes that may be emptied before there is room elsewhere, for their machine is the room."""

    def is_wanted(self, slot: Slot) -> bool:
        """Whether the slot is as wanted, and where."""
        return is_wanted(slot, self.target) and slot.name not in self.misplaced

    @property
    def placement(self) -> PlacementRequest:
        """One more replica of the wanted revision."""
        target = self.target
        return PlacementRequest(
            model=self.model, needs=target.needs, pool=target.pool, engine=target.spec.engine
        )


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


@dataclass(frozen=True, kw_only=True)
class Sides:
    """A model's usable replicas, by what is to become of them."""

    kept_new: tuple[Slot, ...]
    surplus_new: tuple[Slot, ...]
    kept_old: tuple[Slot, ...]
    spare_old: tuple[Slot, ...]
    idle_old: tuple[Slot, ...]
    """Old ones that are not ready: of no use any more."""

    @property
    def ready_new(self) -> int:
        """New replicas that answer."""
        return sum(1 for slot in self.kept_new if slot.phase is SlotPhase.READY)


def plan_rollout(request: RolloutRequest) -> RolloutDecision:
    """Every replica's fate in this pass."""
    sides = take_sides(request)
    removed = tuple(_removed(request, slot) for slot in request.slots if slot.name in request.broken)
    created, shortage = _create(request, sides)
    sacrificed, note = _make_room(request, sides, created=len(created))
    plans = [
        *removed,
        *created,
        *(_kept(request, slot) for slot in sides.kept_new),
        *(_kept(request, slot) for slot in sides.kept_old if slot not in sacrificed),
        *(leave(slot, "more than the load asks for", request.departure) for slot in sides.surplus_new),
        *(leave(slot, _replaced_reason(request, sides), request.departure) for slot in sides.spare_old),
        *(
            leave(slot, f"to make room for {request.target.revision}", request.departure)
            for slot in sacrificed
        ),
        *(
            leave(slot, f"{request.target.revision} is wanted now", request.departure)
            for slot in sides.idle_old
        ),
        *_revive(request, sides),
    ]
    return RolloutDecision(
        slots=tuple(sorted(plans, key=lambda plan: plan.name)),
        shortage=shortage,
        awaiting=_awaiting(created),
        sentences=tuple(filter(None, [*_narrative(request, sides), note])),
        wakes=_wakes(request, plans),
    )


def take_sides(request: RolloutRequest) -> Sides:
    """Sort the usable replicas. The order is fixed (ready before starting, then by name), so choices are stable."""
    usable = [
        slot
        for slot in request.slots
        if slot.phase is not SlotPhase.STOPPING and slot.name not in request.broken
    ]
    new = sorted((slot for slot in usable if request.is_wanted(slot)), key=_usefulness)
    old = [slot for slot in usable if not request.is_wanted(slot)]
    ready_old = sorted((slot for slot in old if slot.phase is SlotPhase.READY), key=_newest_revision_first)
    kept_new = tuple(new[: request.desired])
    ready_new = sum(1 for slot in kept_new if slot.phase is SlotPhase.READY)
    cover = max(0, request.desired - ready_new)
    starting_old = [slot for slot in old if slot.phase is not SlotPhase.READY]
    # An old replica that starts is of use only where it replaces a broken one of what still serves.
    reviving = max(0, cover - len(ready_old)) if request.failing else 0
    return Sides(
        kept_new=kept_new,
        surplus_new=tuple(new[request.desired :]),
        kept_old=(*ready_old[:cover], *starting_old[:reviving]),
        spare_old=tuple(ready_old[cover:]),
        idle_old=tuple(starting_old[reviving:]),
    )


def is_wanted(slot: Slot, target: Target) -> bool:
    """Whether the slot is as wanted. One whose arguments were changed behind our back, or are unreadable, is not."""
    return slot.name.revision == target.revision and slot.spec == target.spec


def _usefulness(slot: Slot) -> tuple[bool, bool, int]:
    """Serving first, then serving ones on their way out (they can stay after all), then starting ones."""
    return (slot.phase is not SlotPhase.READY, slot.draining_since is not None, slot.name.ordinal)


def _newest_revision_first(slot: Slot) -> tuple[bool, float, SlotName]:
    return (slot.draining_since is not None, -slot.since, slot.name)


def _create(request: RolloutRequest, sides: Sides) -> tuple[list[SlotPlan], str]:
    """As many of the missing replicas as fit now; the shortage is told when one does not."""
    room, created = request.room, list[SlotPlan]()
    missing = request.desired - len(sides.kept_new)
    if request.retry_at is not None and request.departure.now < request.retry_at:
        return created, ""
    ordinals = _free_ordinals(request.slots, request.target.revision)
    for _ in range(missing):
        node = find_place(request.placement, room)
        if node is None:
            return created, explain_shortage(request.placement, room)
        plan = _created(request, request.target, next(ordinals), node)
        created.append(plan)
        room.take(node.node_id, Holding(model=request.model, needs=plan.needs, slot=str(plan.name)))
    return created, ""


def _awaiting(created: Iterable[SlotPlan]) -> str:
    waiting = [plan for plan in created if plan.action is SlotAction.AWAIT]
    return f"{plural(len(waiting), 'replica')} on workers that are being brought up" if waiting else ""


def _make_room(request: RolloutRequest, sides: Sides, *, created: int) -> tuple[tuple[Slot, ...], str]:
    """The old replicas to drain so that one new fits, where none does; and the sentence that says so."""
    missing = request.desired - len(sides.kept_new) - created
    starting = created + len(sides.kept_new) - sides.ready_new
    waits_for_retry = request.retry_at is not None and request.departure.now < request.retry_at
    if missing <= 0 or starting > 0 or not sides.kept_old or request.failing or waits_for_retry:
        return (), ""
    leaving = {str(slot.name) for slot in (*sides.spare_old, *sides.surplus_new, *sides.idle_old)}
    room = request.room
    freed = room.without(room.leaving() | leaving | {str(name) for name in request.broken})
    if find_place(request.placement, freed) is not None:
        return (), "a replica that is leaving makes room for the new revision"
    choices = [_victims_on(request, node, sides.kept_old, freed) for node in request.target.pool.nodes]
    able = [victims for victims in choices if victims] or _on_evacuated(request, sides.kept_old)
    if not able:
        return (), ""
    victims = min(able, key=lambda each: (len(each), [slot.name for slot in each]))
    return victims, _sacrifice_note(sides, victims)


def _victims_on(request: RolloutRequest, node: Node, old: tuple[Slot, ...], freed: Room) -> tuple[Slot, ...]:
    """The fewest old replicas on a node whose places, with what is free, hold one new replica; oldest first."""
    there = [slot for slot in reversed(old) if (slot.running_on or slot.node_id) == node.node_id]
    placement = request.placement
    if node not in placement.pool.nodes_for(placement.engine):
        return ()
    for number in range(1, len(there) + 1):
        without = freed.without(str(slot.name) for slot in there[:number])
        if without.fits(placement.pool, node, placement.needs):
            return tuple(there[:number])
    return ()


def _on_evacuated(request: RolloutRequest, old: tuple[Slot, ...]) -> list[tuple[Slot, ...]]:
    """This model's replicas on the node that is being emptied for its machine's sake, if any."""
    there = tuple(slot for slot in old if (slot.running_on or slot.node_id) in request.evacuated)
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


def _revive(request: RolloutRequest, sides: Sides) -> list[SlotPlan]:
    """Replace a broken old replica by its like while the new revision fails to start: the old one keeps serving."""
    revived: list[SlotPlan] = []
    ordinals: dict[str, Iterator[int]] = {}
    serving = sides.ready_new + len(sides.kept_old)
    for slot in request.slots:
        revision, spec = slot.name.revision, slot.spec
        old = slot.name in request.broken and revision != request.target.revision
        if not old or spec is None or not request.failing or serving >= request.desired:
            continue
        placement = PlacementRequest(
            model=request.model, needs=slot.needs, pool=request.target.pool, engine=spec.engine
        )
        node = find_place(placement, request.room)
        if node is None or node.state is not NodeState.PRESENT:
            continue
        ordinal = next(ordinals.setdefault(revision, _free_ordinals(request.slots, revision)))
        name = SlotName(request.model, revision, ordinal)
        reason = f"replaces {slot.name} while {request.target.revision} does not start"
        revived.append(
            SlotPlan(
                name=name,
                action=SlotAction.CREATE,
                spec=spec,
                needs=slot.needs,
                node_id=node.node_id,
                reason=reason,
                ray=node.ray,
            )
        )
        request.room.take(node.node_id, Holding(model=request.model, needs=slot.needs, slot=str(name)))
        serving += 1
    return revived


def _free_ordinals(slots: Iterable[Slot], revision: str) -> Iterator[int]:
    """Ordinals that no slot of the revision has: a retry is never the same application at Ray again."""
    return count(1 + max((slot.name.ordinal for slot in slots if slot.name.revision == revision), default=-1))


def _created(request: RolloutRequest, target: Target, ordinal: int, node: Node) -> SlotPlan:
    here = node.state is NodeState.PRESENT
    where = node.address or node.node_id if here else f"a worker of {node.group} that is being brought up"
    return SlotPlan(
        name=SlotName(request.model, target.revision, ordinal),
        action=SlotAction.CREATE if here else SlotAction.AWAIT,
        spec=target.spec,
        needs=target.needs,
        node_id=node.node_id,
        reason=f"one more of {plural(request.desired, 'wanted replica')}, on {where}",
        ray=node.ray,
    )


def _kept(request: RolloutRequest, slot: Slot) -> SlotPlan:
    wanted = request.is_wanted(slot)
    if slot.phase is not SlotPhase.READY:
        reason = f"{slot.phase.lower()}"
    elif wanted:
        reason = "serves"
    elif slot.name in request.misplaced:
        reason = f"serves until another takes its place: {request.misplaced[slot.name]}"
    else:
        reason = f"serves until {request.target.revision} is ready"
    return SlotPlan.of(slot, SlotAction.KEEP, reason)


def _removed(request: RolloutRequest, slot: Slot) -> SlotPlan:
    return SlotPlan.of(slot, SlotAction.REMOVE, request.broken[slot.name])


def _replaced_reason(request: RolloutRequest, sides: Sides) -> str:
    if sides.ready_new:
        return f"{request.target.revision} serves in its place"
    return "more than the load asks for"


def _narrative(request: RolloutRequest, sides: Sides) -> list[str]:
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
