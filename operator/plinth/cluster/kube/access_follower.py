"""A gateway's access table, followed from the keys' Secrets and the QuotaPolicies: part of the agent beside each gateway.

A key that is revoked stops opening the API as soon as this hands over the next table: within 0.15 s of the API server's
telling. It holds digests only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.key_store import readable
from plinth.cluster.kube.kinds import QUOTA_POLICY, SECRET
from plinth.cluster.kube.reflector import Reflector
from plinth.cluster.kube.table_following import Following, load_table, save_table
from plinth.desired.key_secrets import SELECTOR
from plinth.domain.access import AccessTable
from plinth.domain.control_lines import encode_access
from plinth.domain.policies import access_table, policy_record

log = logging.getLogger("plinth.access")


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
        self._following = Following(self._look)
        notice = self._following.notice
        self._keys = Reflector(client, SECRET, namespace=keys_namespace, labels=SELECTOR, on_change=notice)
        self._policies = Reflector(client, QUOTA_POLICY, on_change=notice)
        self._good: dict[tuple[str, str], dict[str, Any]] = {}
        """The last version of each policy that could be read."""
        self._table: AccessTable | None = None

    def start(self) -> None:
        """Hand over the saved table, if there is one, and follow."""
        saved = load_table(self._file, AccessTable)
        # A table from before keys were required would let everybody in until the API server answers.
        if saved is not None and saved.requires_key == self._requires_key:
            self._table = saved
            self._hand_over(saved)
        self._following.start(self._keys, self._policies)

    async def close(self) -> None:
        """End following."""
        await self._following.close()

    def _look(self) -> None:
        before = self._table
        version = before.version if before else 0
        keys = [key for secret in self._keys.items.values() if (key := readable(secret)) is not None]
        table = access_table(
            keys, self._readable_policies(), requires_key=self._requires_key, version=version
        )
        if table != before:
            self._table = replace(table, version=version + 1)
            self._hand_over(self._table)
            save_table(self._file, encode_access(self._table))

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
