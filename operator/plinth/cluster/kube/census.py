"""Compares the store with the API server's own list: whether all is there, and what went unnoticed.

A watch that was interrupted begins with what exists then, so of what was deleted meanwhile nobody tells. And a store
that is still being filled must never be planned with: models that are merely not read yet would look like models that
were deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from plinth.api.v1alpha1 import ResourceKey
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import Kind
from plinth.cluster.kube.store import KubernetesStore, key_of

RETRY_SECONDS = 0.2
AWAY_SECONDS = 1.0
REGULAR_SECONDS = 300.0
"""Also when nothing hints at an interruption."""
PATIENCE_SECONDS = 30.0
"""How long a listed object may be missing before whoever feeds the store is taken for broken."""

log = logging.getLogger("plinth.census")


class Census:
    """Keeps one store honest."""

    def __init__(
        self,
        client: KubeClient,
        store: KubernetesStore,
        kinds: Iterable[Kind],
        *,
        on_change: Callable[[], None],
        on_missing: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            client: lists the objects.
            store: what is compared.
            kinds: whose objects the store holds.
            on_change: called when it came to be complete, and when objects were found gone.
            on_missing: called when objects are missing for so long that the watch must be broken.
        """
        self._client = client
        self._store = store
        self._kinds = tuple(kinds)
        self._on_change = on_change
        self._on_missing = on_missing
        self._hint = asyncio.Event()
        self._complete = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether every object has been in the store once."""
        return self._complete.is_set()

    async def wait_synced(self) -> None:
        """Wait until every object has been in the store once."""
        await self._complete.wait()

    def hint(self) -> None:
        """Something may have gone unnoticed: compare soon."""
        self._hint.set()

    async def run(self) -> None:
        """Compare until complete, then on each hint and every few minutes."""
        while True:
            await self._until_complete()
            if not self.synced:
                self._complete.set()
                self._on_change()
            try:
                async with asyncio.timeout(REGULAR_SECONDS):
                    await self._hint.wait()
                # A burst of hints, one for each object listed anew, is one.
                await asyncio.sleep(RETRY_SECONDS)
            except TimeoutError:
                pass
            self._hint.clear()

    async def _until_complete(self) -> None:
        missing_for = 0.0
        while True:
            try:
                if await self.take():
                    return
                pause = RETRY_SECONDS
                missing_for += pause
            except (KubeAway, KubeRefused) as error:
                log.info("the objects cannot be listed just now: %s", error)
                pause = AWAY_SECONDS
            if missing_for > PATIENCE_SECONDS:
                log.warning("objects that exist are not seen: they are followed anew")
                self._on_missing()
                missing_for = 0.0
            await asyncio.sleep(pause)

    async def take(self) -> bool:
        """Compare once: forget what is gone; whether all that is there is known. Raises KubeAway, KubeRefused."""
        before = self._store.known()
        listed: dict[ResourceKey, str] = {}
        for kind in self._kinds:
            items, _ = await self._client.list(kind, metadata_only=True)
            listed |= {key_of(kind.kind, each["metadata"]): each["metadata"]["uid"] for each in items}
        # What was known before the list and is not in it has gone; what came since may not be in it yet.
        ghosts = [(key, uid) for key, uid in before.items() if listed.get(key) != uid]
        removed = [key for key, uid in ghosts if self._store.remove(key, uid)]
        if removed:
            log.info("%d objects were deleted unnoticed", len(removed))
            self._on_change()
        known = self._store.known()
        return all(known.get(key) == uid for key, uid in listed.items())
