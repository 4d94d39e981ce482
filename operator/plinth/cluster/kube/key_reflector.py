"""All API keys of a cluster as its Secrets have them now: what the operator counts in the statuses of QuotaPolicies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.key_store import readable
from plinth.cluster.kube.kinds import SECRET
from plinth.cluster.kube.reflector import Reflector
from plinth.desired.key_secrets import SELECTOR
from plinth.domain.keys import StoredKey


class KeyReflector:
    """Follows the Secrets of one namespace; where it may not, there are no keys."""

    def __init__(self, client: KubeClient, namespace: str, *, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._read: tuple[StoredKey, ...] | None = None
        self._secrets = Reflector(
            client, SECRET, namespace=namespace, labels=SELECTOR, on_change=self._take_change
        )

    @property
    def keys(self) -> Sequence[StoredKey]:
        """All keys, revoked ones too."""
        if self._read is None:
            found = (readable(secret) for secret in self._secrets.items.values())
            self._read = tuple(key for key in found if key is not None)
        return self._read

    def start(self) -> None:
        """Begin to follow."""
        self._secrets.start()

    async def close(self) -> None:
        """End following."""
        await self._secrets.close()

    def _take_change(self) -> None:
        self._read = None
        self._on_change()
