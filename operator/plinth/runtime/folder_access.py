"""The access table of a standalone Plinth: its keys and the QuotaPolicies of its folder, looked at by `plinth up`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace

from plinth.api.v1alpha1 import QuotaPolicy
from plinth.cluster.key_store import KeyDB, KeyStoreError
from plinth.domain.access import AccessTable
from plinth.domain.keys import StoredKey
from plinth.domain.policies import access_table

LOOK_SECONDS = 0.25
"""Between looks: a revoked key is to be refused within a second. One costs some microseconds while nothing changes."""


class FolderAccess:
    """Makes a new table when keys or policies have changed."""

    def __init__(self, database: KeyDB) -> None:
        self._database = database
        self._mark: tuple[int, ...] | None = None
        self._keys: list[StoredKey] = []
        self._policies: Sequence[QuotaPolicy] | None = None
        self._table = AccessTable(version=0)

    @property
    def keys(self) -> Sequence[StoredKey]:
        """The keys as of the last look; revoked ones too."""
        return self._keys

    def look(self, policies: Sequence[QuotaPolicy]) -> AccessTable | None:
        """The table, if it differs from the last one given; `policies` as the last reading of the folder had them.

        A key is asked for once there has been one: revoked ones stay in the database, and a database that is put in its
        place opens nothing. Raises sqlite3.Error and KeyStoreError.
        """
        mark = self._database.change_mark()
        if mark == self._mark and policies == self._policies:
            return None
        if mark != self._mark:
            self._keys, self._mark = self._database.read(), mark
        self._policies = policies
        documents = [each.model_dump(mode="json", by_alias=True, exclude={"status"}) for each in policies]
        before = self._table
        requires_key = bool(self._keys) or (before.requires_key and before.version > 0)
        table = access_table(self._keys, documents, requires_key=requires_key, version=before.version)
        if table == before and before.version:
            return None
        self._table = replace(table, version=before.version + 1)
        return self._table

    async def follow(
        self,
        policies: Callable[[], Sequence[QuotaPolicy]],
        *,
        hand_over: Callable[[AccessTable], None],
        say: Callable[[str], None],
    ) -> None:
        """Hand over a table at once and each that differs from the one before, until cancelled.

        While the keys cannot be read the gateway goes on by its last table; `say` is told of that once.
        """
        trouble = ""
        while True:
            try:
                table, now_wrong = self.look(policies()), ""
            except (sqlite3.Error, KeyStoreError) as error:
                table, now_wrong = None, f"the keys cannot be read just now, those read last go on: {error}"
            if table is not None:
                hand_over(table)
            if now_wrong and now_wrong != trouble:
                say(now_wrong)
            trouble = now_wrong
            await asyncio.sleep(LOOK_SECONDS)
