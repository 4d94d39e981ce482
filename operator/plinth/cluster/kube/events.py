"""Writes Kubernetes events beside everything else: never waited for, told once, and fewer when there are too many.

Events are a courtesy to people. What cannot be written at once is dropped, since the conditions say all that matters.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from plinth.api.v1alpha1 import API_VERSION, ResourceKey
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import EVENT
from plinth.desired.story import Note

CONTROLLER = "plinth.dev/operator"
NOTE_BYTES = 1024
"""The API server takes no longer ones."""
AGAIN_SECONDS = 600.0
"""The same is told of the same object only after so long."""
BURST, PER_SECOND = 200, 10.0
MOST_WAITING = 500

log = logging.getLogger("plinth.events")


class EventWriter:
    """Takes notes and writes them as events while `run` runs."""

    def __init__(
        self,
        client: KubeClient,
        *,
        identity: str,
        uid_of: Callable[[ResourceKey], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._identity = identity
        self._uid_of = uid_of
        self._clock = clock
        self._told: dict[Note, float] = {}
        self._allowance = float(BURST)
        self._allowed_at = clock()
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._more = asyncio.Event()

    def tell(self, notes: Sequence[Note]) -> None:
        """Write these soon, but for those told lately, those of objects that have gone, and those beyond the rate."""
        if not notes:
            return
        now = self._clock()
        self._told = {note: at for note, at in self._told.items() if now - at < AGAIN_SECONDS}
        self._allowance = min(BURST, self._allowance + (now - self._allowed_at) * PER_SECOND)
        self._allowed_at = now
        for note in notes:
            uid = self._uid_of(note.about)
            if uid is None or note in self._told or self._allowance < 1:
                continue
            self._allowance -= 1
            self._told[note] = now
            self._waiting.append(make_event(note, uid=uid, identity=self._identity, now=now))
            self._more.set()

    async def run(self) -> None:
        """Write what waits, until cancelled. Raises NotLeaderError."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            try:
                await self._client.create(EVENT, self._waiting.popleft())
            except (KubeAway, KubeRefused) as error:
                log.info("an event is not told: %s", error)


def make_event(note: Note, *, uid: str, identity: str, now: float) -> dict[str, Any]:
    """The event as the API server wants it; one about a cluster-wide object lives in `default`."""
    about = note.about
    regarding = {"apiVersion": API_VERSION, "kind": about.kind, "name": about.name, "uid": uid}
    if about.namespace:
        regarding["namespace"] = about.namespace
    return {
        "metadata": {"namespace": about.namespace or "default", "generateName": f"{about.name}-"},
        "eventTime": datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": identity[:128],
        "action": note.action,
        "reason": note.reason,
        "regarding": regarding,
        "note": _fit(note.message),
        "type": "Warning" if note.is_warning else "Normal",
    }


def _fit(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= NOTE_BYTES:
        return text
    return encoded[: NOTE_BYTES - len("…".encode())].decode(errors="ignore") + "…"
