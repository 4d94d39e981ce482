"""What replicas say of themselves, and what the dead left behind: completes what Ray alone can tell of a slot."""

from __future__ import annotations

import asyncio
import contextlib
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
PATIENCE_SECONDS = 0.25
"""How long one pass waits for the answers: a lost node's replicas would hold up all others."""
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
    _completed: dict[SlotName, tuple[Slot, EngineReport, str, Slot]] = field(default_factory=dict)
    """What was made of which slot, report and trouble: the same object again while these are the same."""
    _asking: dict[SlotName, asyncio.Task[None]] = field(default_factory=dict)
    _death_notes: dict[SlotName, str] = field(default_factory=dict)

    async def complete(self, found: Sequence[FoundSlot], now: float) -> list[Slot]:
        """The slots with what their replicas say, or why they died."""
        await self._ask_some(found, now)
        dead = [each for each in found if each.slot.phase is SlotPhase.FAILED]
        await asyncio.gather(*(self._note_death(each) for each in dead))
        completed = [self._complete(each.slot) for each in found]
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
        for cache in (self._reports, self._completed, self._death_notes, self.troubles):
            for gone in cache.keys() - kept:
                del cache[gone]

    def _to_ask(self, found: Sequence[FoundSlot], now: float) -> set[SlotName]:
        """Those whose turn it is: starting ones on every pass, ready ones now and then."""
        starting, due = list[tuple[float, SlotName]](), list[tuple[float, SlotName]]()
        for each in found:
            name = each.slot.name
            at, known = self._reports.get(name, (0.0, None))
            if name in self._asking or each.slot.port is None:
                continue
            if each.slot.phase in {SlotPhase.FAILED, SlotPhase.STOPPING}:
                continue
            if known is None or known.phase is not SlotPhase.READY:
                starting.append((at, name))
            elif now - at >= READY_POLL_SECONDS:
                due.append((at, name))
        turns = sorted(starting)[:STARTING_POLLS_A_PASS] + sorted(due)[:READY_POLLS_A_PASS]
        return {name for _, name in turns}

    async def _ask_some(self, found: Sequence[FoundSlot], now: float) -> None:
        """Ask those whose turn it is. An answer that is slow to come is read by the pass after it has come."""
        asked = self._to_ask(found, now)
        for each in found:
            if each.slot.name in asked:
                self._asking[each.slot.name] = asyncio.create_task(self._ask(each.slot, now))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=PATIENCE_SECONDS)
        for name in [name for name, asking in self._asking.items() if asking.done()]:
            self._asking.pop(name).result()

    async def _ask(self, slot: Slot, now: float) -> None:
        """Silence is no verdict: a busy engine may be slow. The gateway's connection tells when it died."""
        report = await self.ports.replicas.report(slot.host or "", slot.port or 0, str(slot.name))
        if report is not None:
            self._reports[slot.name] = (now, report)

    def _complete(self, slot: Slot) -> Slot:
        if slot.phase is SlotPhase.FAILED:
            return replace(slot, message=self._death_notes[slot.name])
        known = self._reports.get(slot.name)
        if slot.phase is SlotPhase.STOPPING or slot.host is None or slot.port is None or known is None:
            return slot
        report, trouble = known[1], self.troubles.get(slot.name, "")
        made = self._completed.get(slot.name)
        if made is None or made[0] is not slot or made[1:3] != (report, trouble):
            made = self._completed[slot.name] = (slot, report, trouble, _told(slot, report, trouble))
        return made[3]

    async def _note_death(self, found: FoundSlot) -> None:
        """Ray's word and the process's last meaningful lines, read once a slot."""
        slot = found.slot
        if slot.name in self._death_notes:
            return
        last = self._reports.get(slot.name)
        lines = list(last[1].log_lines) if last else []
        if not lines and found.actor_id:
            with contextlib.suppress(CapacityAway):
                text = await self.ports.capacity.read_log(slot.ray, found.actor_id, lines=LOG_LINES_READ)
                lines = list(select_lines(text))
        self._death_notes[slot.name] = "\n".join([slot.message, *lines]).strip()


def _told(slot: Slot, report: EngineReport, trouble: str) -> Slot:
    return replace(
        slot,
        phase=report.phase,
        bytes_done=report.bytes_done,
        bytes_total=report.bytes_total,
        eta_seconds=report.eta_seconds,
        figures=report.figures,
        start_milliseconds=report.start_milliseconds,
        seen=report.accelerators,
        fault=report.fault,
        message="\n".join(filter(None, [trouble or report.message, *report.log_lines])),
    )
