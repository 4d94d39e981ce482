"""What replicas say of themselves, and what the dead left behind: completes what Ray alone can tell of a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from plinth.cluster.capacity import CapacityAway
from plinth.controllers.ports import Ports
from plinth.desired.serve_details import FoundSlot
from plinth.domain.fleet import EngineReport, Slot, SlotName, SlotPhase
from plinth.engine.logs import select_lines

READY_POLL_SECONDS = 5.0
READY_POLLS_A_PASS = 32
STARTING_POLLS_A_PASS = 128
"""Replicas asked in one pass, the longest unasked first: a large fleet is not asked all at once."""
LOG_LINES_READ = 200


@dataclass
class ReplicaReports:
    """Asks the replicas; keeps what each said last."""

    ports: Ports
    waiting: frozenset[SlotName] = frozenset()
    """Replicas that ask for the token of their model's source."""
    troubles: dict[SlotName, str] = field(default_factory=dict)
    """Why a waiting replica has not been given its token."""
    _reports: dict[SlotName, tuple[float, EngineReport]] = field(default_factory=dict)
    _death_notes: dict[SlotName, str] = field(default_factory=dict)

    async def complete(self, found: Sequence[FoundSlot], now: float) -> list[Slot]:
        """The slots with what their replicas say, or why they died."""
        asked = self._to_ask(found, now)
        completed = await asyncio.gather(
            *(self._complete(each, now, each.slot.name in asked) for each in found)
        )
        self.waiting = frozenset(
            slot.name
            for slot in completed
            if slot.phase is SlotPhase.PENDING
            and (known := self._reports.get(slot.name))
            and known[1].needs_credentials
        )
        return completed

    def forget_all_but(self, names: Iterable[SlotName]) -> None:
        """Drop what is kept of slots that are gone."""
        kept = set(names)
        for cache in (self._reports, self._death_notes, self.troubles):
            for gone in cache.keys() - kept:
                del cache[gone]

    def _to_ask(self, found: Sequence[FoundSlot], now: float) -> set[SlotName]:
        """Those whose turn it is: starting ones on every pass, ready ones now and then."""
        starting, due = list[tuple[float, SlotName]](), list[tuple[float, SlotName]]()
        for each in found:
            name = each.slot.name
            at, known = self._reports.get(name, (0.0, None))
            if each.slot.port is None:
                continue
            if known is None or known.phase is not SlotPhase.READY:
                starting.append((at, name))
            elif now - at >= READY_POLL_SECONDS:
                due.append((at, name))
        turns = sorted(starting)[:STARTING_POLLS_A_PASS] + sorted(due)[:READY_POLLS_A_PASS]
        return {name for _, name in turns}

    async def _complete(self, found: FoundSlot, now: float, asked: bool) -> Slot:  # noqa: FBT001 - private
        slot = found.slot
        if slot.phase is SlotPhase.FAILED:
            return replace(slot, message=await self._death_note(found))
        if slot.phase is SlotPhase.STOPPING or slot.host is None or slot.port is None:
            return slot
        report = await self._report(slot, now) if asked else self._reports.get(slot.name, (now, None))[1]
        if report is None:
            return slot
        return replace(
            slot,
            phase=report.phase,
            bytes_done=report.bytes_done,
            bytes_total=report.bytes_total,
            eta_seconds=report.eta_seconds,
            message="\n".join(
                filter(None, [self.troubles.get(slot.name) or report.message, *report.log_lines])
            ),
        )

    async def _report(self, slot: Slot, now: float) -> EngineReport | None:
        report = await self.ports.replicas.report(slot.host or "", slot.port or 0, str(slot.name))
        if report is None:
            # Silence is no verdict: a busy engine may be slow. The gateway's connection tells when it died.
            known = self._reports.get(slot.name)
            return known[1] if known else None
        self._reports[slot.name] = (now, report)
        return report

    async def _death_note(self, found: FoundSlot) -> str:
        """Ray's word and the process's last meaningful lines, read once a slot."""
        slot = found.slot
        if slot.name not in self._death_notes:
            last = self._reports.get(slot.name)
            lines = list(last[1].log_lines) if last else []
            if not lines and found.actor_id:
                try:
                    text = await self.ports.capacity.read_log(slot.ray, found.actor_id, lines=LOG_LINES_READ)
                    lines = list(select_lines(text))
                except CapacityAway:
                    lines = []
            self._death_notes[slot.name] = "\n".join([slot.message, *lines]).strip()
        return self._death_notes[slot.name]
