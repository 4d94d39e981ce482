"""One model's replicas by what is to become of them: asked before places are given, and again once others need theirs.

target, slots -> sides, missing -> (places for all models) -> sides again -> rollout
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice

from plinth.domain.draining import Departure
from plinth.domain.fleet import ModelKey, Slot, SlotName, SlotPhase
from plinth.domain.placing.demands import Option
from plinth.domain.placing.view import option_of
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
    misplaced: Mapping[SlotName, str] = field(default_factory=dict)
    """Replicas that must go elsewhere though they are as wanted, and why."""
    moving: Mapping[SlotName, str] = field(default_factory=dict)
    """Replicas in whose stead another starts, so that others find room, and why."""
    yielding: Mapping[SlotName, str] = field(default_factory=dict)
    """Replicas that others displace, and why."""
    promised: frozenset[SlotName] = frozenset()
    """Replicas whose places others have been given: those go, whatever this model wants now."""
    evacuated: frozenset[str] = frozenset()
    """Nodes that may be emptied before there is room elsewhere, for their machine is the room."""

    def is_wanted(self, slot: Slot) -> bool:
        """Whether the slot is as wanted, and where."""
        elsewhere = slot.name in self.misplaced or slot.name in self.moving
        return is_wanted(slot, self.target) and not elsewhere

    @property
    def option(self) -> Option:
        """What one more replica of the wanted revision takes."""
        return option_of(self.target.pool, self.target.spec.engine, self.target.needs)

    @cached_property
    def sides(self) -> Sides:
        """The usable replicas, sorted."""
        return take_sides(self)

    @cached_property
    def missing(self) -> tuple[SlotName, ...]:
        """Names for the replicas that are wanted and not there; none before a start that failed is due again."""
        if self.retry_at is not None and self.departure.now < self.retry_at:
            return ()
        return tuple(islice(self.new_names(), max(0, self.desired - len(self.sides.kept_new))))

    def new_names(self) -> Iterator[SlotName]:
        """Names for replicas of the wanted revision that none has had."""
        revision = self.target.revision
        return (SlotName(self.model, revision, each) for each in free_ordinals(self.slots, revision))


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

    @property
    def leaving(self) -> tuple[Slot, ...]:
        """Those that go."""
        return (*self.surplus_new, *self.spare_old, *self.idle_old)


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
    kept_new, surplus_new = _split(new, request.desired, request)
    ready_new = sum(1 for slot in kept_new if slot.phase is SlotPhase.READY)
    cover = max(0, request.desired - ready_new)
    kept_old, spare_old = _split(ready_old, cover, request)
    # An old replica that starts is of use only where it replaces a broken one of what still serves.
    reviving = max(0, cover - len(ready_old)) if request.failing else 0
    starting_old, idle_old = _split(
        (slot for slot in old if slot.phase is not SlotPhase.READY), reviving, request
    )
    return Sides(
        kept_new=kept_new,
        surplus_new=surplus_new,
        kept_old=(*kept_old, *starting_old),
        spare_old=spare_old,
        idle_old=idle_old,
    )


def is_wanted(slot: Slot, target: Target) -> bool:
    """Whether the slot is as wanted. One whose arguments were changed behind our back, or are unreadable, is not."""
    return slot.name.revision == target.revision and slot.spec == target.spec


def free_ordinals(slots: Iterable[Slot], revision: str) -> Iterator[int]:
    """Ordinals that no slot of the revision has: a retry is never the same application at Ray again."""
    return count(1 + max((slot.name.ordinal for slot in slots if slot.name.revision == revision), default=-1))


def _split(
    slots: Iterable[Slot], number: int, request: RolloutRequest
) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """The first so many, without those that go for others, and the rest."""
    kept, rest = list[Slot](), list[Slot]()
    for slot in slots:
        goes = slot.name in request.yielding or slot.name in request.promised
        (rest if goes or len(kept) == number else kept).append(slot)
    return tuple(kept), tuple(rest)


def _usefulness(slot: Slot) -> tuple[bool, bool, int]:
    """Serving first, then serving ones on their way out (they can stay after all), then starting ones."""
    return (slot.phase is not SlotPhase.READY, slot.draining_since is not None, slot.name.ordinal)


def _newest_revision_first(slot: Slot) -> tuple[bool, float, SlotName]:
    return (slot.draining_since is not None, -slot.since, slot.name)
