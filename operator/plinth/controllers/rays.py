"""What the cycle keeps of each Ray from pass to pass: its last answer, and the slots read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from plinth.cluster.capacity import RayObservation
from plinth.desired.serve_details import FoundSlot, read_slots
from plinth.domain.fleet import Node, Slot, SlotPhase


@dataclass
class RayView:
    """One Ray as last seen."""

    observation: RayObservation
    serve: Mapping[str, Any] | None = None
    """Its last answer about applications, which a PUT is compared with; None before the first one."""
    nodes: tuple[Node, ...] = ()
    found: tuple[FoundSlot, ...] = ()
    """The slots in that answer."""
    slots: tuple[Slot, ...] = ()
    """The same, completed by what the replicas say of themselves."""
    settled: tuple[Any, ...] = field(default=())
    """The answer and the wish that were found to be the same; see `execute`."""

    @property
    def answers(self) -> bool:
        """Whether it answered in this pass."""
        return self.observation.serve is not None

    @property
    def seen(self) -> bool:
        """Whether it has answered since this process began."""
        return self.serve is not None

    def next(self, observation: RayObservation) -> RayView:
        """The view after one more look. An answer that is the very same object is not read again."""
        if observation.serve is None:
            return replace(self, observation=observation, nodes=observation.nodes or self.nodes)
        if observation.serve is self.serve:
            return replace(self, observation=observation, nodes=observation.nodes)
        known = {slot.name: slot for slot in self.slots}
        found = tuple(
            _keep_place(each, known.get(each.slot.name))
            for each in read_slots(observation.serve, ray=observation.name)
        )
        return replace(
            self, observation=observation, serve=observation.serve, nodes=observation.nodes, found=found
        )


def _keep_place(found: FoundSlot, known: Slot | None) -> FoundSlot:
    """Ray forgets the config of what it is deleting, yet the replica holds its place until it is gone."""
    if found.slot.phase is not SlotPhase.STOPPING or known is None:
        return found
    slot = replace(found.slot, spec=known.spec, needs=known.needs, place=known.place)
    return replace(found, slot=slot)
