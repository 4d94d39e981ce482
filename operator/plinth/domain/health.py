"""Which replicas are beyond use and must be replaced, each with the reason. Slow is not broken: a busy engine stays."""

from __future__ import annotations

from collections.abc import Collection

from plinth.domain.fleet import FailureRecord, Slot, SlotPhase
from plinth.domain.traffic import LoadReport, ReplicaState

FIRST_BACKOFF_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 300.0


def breakage(slot: Slot, *, report: LoadReport | None, node_ids: Collection[str]) -> str | None:
    """Why a replica can no longer serve, or None while it can or may still come to."""
    if slot.phase is SlotPhase.FAILED:
        return f"its engine failed: {first_line(slot.message) or 'no reason was given'}"
    load = report.replicas.get(str(slot.name)) if report else None
    if slot.phase is SlotPhase.READY and load is not None and load.state is ReplicaState.DEAD:
        return f"the gateway lost it: {load.detail or 'its connection broke'}"
    if slot.phase not in {SlotPhase.READY, SlotPhase.STOPPING}:
        told = [each.node_id for each in slot.place] or [""]
        gone = next((node_id for node_id in told if node_id not in node_ids), None)
        if gone is not None:
            return f"its node {gone or '(none)'} is gone"
    return None


def retry_due_at(failure: FailureRecord | None, revision: str) -> float | None:
    """When the next start of a revision is due; None when at once.

    The first failure is retried at once (one death is an accident), then after 10 s, 20 s, … up to 5 min.
    """
    if failure is None or failure.revision != revision or failure.count <= 1:
        return None
    # 2 to the 8th is past the longest wait already; the bound keeps the power small after days of failures.
    doublings = min(failure.count - 2, 8)
    return failure.last_at + min(FIRST_BACKOFF_SECONDS * (1 << doublings), LONGEST_BACKOFF_SECONDS)


def first_line(message: str) -> str:
    """The first line of a message that has one."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")
