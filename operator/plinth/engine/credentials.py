"""The token of a gated source on its way to the download, and nowhere else: it is never logged, reported or kept.

On a machine of one's own a replica reads it from the folder of secrets. In a cluster the pods of a Ray belong to many
tenants, so no file, variable or argument there holds it: the replica asks in its report, and the operator hands it over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from plinth.engine.progress import ReplicaProgress
from plinth.engine.seam import SourceError


class TokenSource(Protocol):
    """Where a replica gets the token from."""

    async def take(self, progress: ReplicaProgress) -> SecretStr:
        """The token, once it is there; the caller drops it when it has been used. Raises SourceError."""


@dataclass(frozen=True, kw_only=True)
class FolderToken:
    """The token as `name/key` of a folder of secrets, read when it is needed."""

    credentials: str
    secrets_dir: Path

    async def take(self, progress: ReplicaProgress) -> SecretStr:
        """The file's content. Raises SourceError."""
        del progress  # nothing is waited for
        return read_token(self.credentials, self.secrets_dir)


class PushedToken:
    """The token as the operator hands it over; held only between being put and being taken."""

    def __init__(self, credentials: str) -> None:
        self._credentials = credentials
        self._awaited: asyncio.Future[SecretStr] | None = None

    def put(self, token: SecretStr) -> bool:
        """Hand it over; False where nobody waits for it (any more)."""
        if self._awaited is None or self._awaited.done():
            return False
        self._awaited.set_result(token)
        return True

    async def take(self, progress: ReplicaProgress) -> SecretStr:
        """Say that it is needed, and wait."""
        progress.ask_for_credentials(f"waiting for the token of the secret {self._credentials}")
        self._awaited = asyncio.get_running_loop().create_future()
        try:
            return await self._awaited
        finally:
            self._awaited = None


def read_token(credentials: str, secrets_dir: Path) -> SecretStr:
    """The token that `name/key` of the folder of secrets holds.

    Raises:
        SourceError: it cannot be read, or is empty.
    """
    try:
        token = (secrets_dir / credentials).read_text().strip()
    except OSError as error:
        raise SourceError(
            f"model.credentials: secret {credentials} cannot be read: {error.strerror}"
        ) from None
    if not token:
        raise SourceError(f"model.credentials: secret {credentials} is empty")
    return SecretStr(token)
