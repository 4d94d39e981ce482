"""API keys of a cluster, read and written as Secrets with the permissions of whoever asks; see `desired.key_secrets`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from plinth.cluster.kube.client import KubeClient, KubeRefused
from plinth.cluster.kube.kinds import SECRET
from plinth.desired.key_secrets import (
    KeySecretError,
    make_secret,
    read_secret,
    secret_name,
    tenant_selector,
)
from plinth.domain.keys import ID_PREFIX, KeyTaken, KeyUnknown, StoredKey, may_replace

CONFLICT = 409

log = logging.getLogger("plinth.keys")


class KeySecrets:
    """The keys in one namespace. All calls raise KubeAway and KubeRefused."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def read(self, tenant: str = "") -> list[StoredKey]:
        """The keys of one tenant, or of all; revoked ones too. By tenant and name."""
        secrets, _ = await self._client.list(
            SECRET, namespace=self._namespace, labels=tenant_selector(tenant)
        )
        keys = [key for secret in secrets if (key := readable(secret)) is not None]
        return sorted(keys, key=lambda each: (each.tenant, each.name))

    async def add(self, key: StoredKey) -> None:
        """Keep a new key; raises KeyTaken while another one has its name."""
        try:
            await self._client.create(SECRET, make_secret(key, namespace=self._namespace))
        except KubeRefused as refusal:
            before = await self._get(key.tenant, key.name) if refusal.status == CONFLICT else None
            if before is None:
                raise
            if not may_replace(read_secret(before)):
                raise KeyTaken(
                    f"{key.tenant} has a key {key.name} already; rotate or revoke that one"
                ) from refusal
            await self._replace(key, before)

    async def change(self, tenant: str, name: str, edit: Callable[[StoredKey], StoredKey]) -> StoredKey:
        """Change the key of this name or id, and give it as it is now; raises KeyUnknown, and what `edit` raises.

        A change that somebody else made meanwhile is not undone: then it raises KubeRefused (409).
        """
        if name.startswith(ID_PREFIX):
            name = next((each.name for each in await self.read(tenant) if each.id == name), name)
        secret = await self._get(tenant, name)
        if secret is None:
            raise KeyUnknown(f"{tenant} has no key {name}")
        before = read_secret(secret)
        after = edit(before)
        if after != before:
            await self._replace(after, secret)
        return after

    async def _get(self, tenant: str, name: str) -> dict[str, Any] | None:
        return await self._client.get(SECRET, self._namespace, secret_name(tenant, name))

    async def _replace(self, key: StoredKey, before: Mapping[str, Any]) -> None:
        version = before["metadata"]["resourceVersion"]
        await self._client.replace(SECRET, make_secret(key, namespace=self._namespace, version=version))


def readable(secret: Mapping[str, Any]) -> StoredKey | None:
    """The key in a Secret; one that holds none opens nothing, and the log says so."""
    try:
        return read_secret(secret)
    except KeySecretError as error:
        log.warning("not used: %s", error)
        return None
