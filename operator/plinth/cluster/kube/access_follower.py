"""A gateway's access table, followed from the keys' Secrets and the QuotaPolicies: part of the agent beside each gateway.

A key that is revoked stops opening the API as soon as this hands over the next table: within 0.15 s of the API server's
telling. The table outlives what it comes from: while the API server is away the last one stays, and it is kept in a
file, so that agent and gateway may be restarted meanwhile. It holds digests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.key_store import readable
from plinth.cluster.kube.kinds import QUOTA_POLICY, SECRET
from plinth.cluster.kube.reflector import Reflector
from plinth.desired.key_secrets import SELECTOR
from plinth.domain.access import AccessTable
from plinth.domain.policies import access_table, policy_record

SETTLE_SECONDS = 0.02
"""A policy and its keys are often applied together."""
PACE_SECONDS = 0.1
"""At least so long between two tables."""

log = logging.getLogger("plinth.access")

_DECODER = msgspec.json.Decoder(AccessTable)


class AccessFollower:
    """Hands over each new table; the saved one first. Until both kinds were seen whole it hands over nothing new."""

    def __init__(
        self,
        client: KubeClient,
        *,
        keys_namespace: str,
        requires_key: bool,
        table_file: Path,
        hand_over: Callable[[AccessTable], None],
    ) -> None:
        self._requires_key = requires_key
        self._file = table_file
        self._hand_over = hand_over
        self._changed = asyncio.Event()
        notice = self._changed.set
        self._keys = Reflector(client, SECRET, namespace=keys_namespace, labels=SELECTOR, on_change=notice)
        self._policies = Reflector(client, QUOTA_POLICY, on_change=notice)
        self._good: dict[tuple[str, str], dict[str, Any]] = {}
        """The last version of each policy that could be read."""
        self._table: AccessTable | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Hand over the saved table, if there is one, and follow."""
        saved = load_access(self._file)
        # A table from before keys were required would let everybody in until the API server answers.
        if saved is not None and saved.requires_key == self._requires_key:
            self._table = saved
            self._hand_over(saved)
        self._keys.start()
        self._policies.start()
        self._task = asyncio.create_task(self._follow(), name="follow access")

    async def close(self) -> None:
        """End following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._keys.close()
        await self._policies.close()

    async def _follow(self) -> None:
        await self._keys.wait_synced()
        await self._policies.wait_synced()
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._changed.clear()
            try:
                self._take()
            except Exception:
                log.exception("keys and policies could not be taken over; the next change tries again")
            await asyncio.sleep(PACE_SECONDS)

    def _take(self) -> None:
        before = self._table
        version = before.version if before else 0
        keys = [key for secret in self._keys.items.values() if (key := readable(secret)) is not None]
        table = access_table(
            keys, self._readable_policies(), requires_key=self._requires_key, version=version
        )
        if table != before:
            self._table = replace(table, version=version + 1)
            self._hand_over(self._table)
            save_access(self._file, self._table)

    def _readable_policies(self) -> list[dict[str, Any]]:
        """Each policy in its last good version: one that cannot be read must not lift the limits of its keys."""
        items = self._policies.items
        for name, item in items.items():
            try:
                policy_record(item)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("QuotaPolicy %s/%s cannot be read: %r", *name, error)
            else:
                self._good[name] = item
        self._good = {name: item for name, item in self._good.items() if name in items}
        return list(self._good.values())


def load_access(path: Path) -> AccessTable | None:
    """The table that an earlier process saved."""
    try:
        return _DECODER.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("the saved access table %s cannot be used: %s", path, error)
        return None


def save_access(path: Path, table: AccessTable) -> None:
    """Keep a table for the next process, for its owner alone; a file that cannot be written costs only that."""
    partial = path.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(table))
        partial.replace(path)
    except OSError as error:
        log.warning("the access table cannot be saved to %s: %s", path, error)
