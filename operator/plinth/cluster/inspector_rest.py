"""Asks the inspector in the pod of a Ray head what it sees of a source."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from plinth.cluster.inspector import ANSWER_SECONDS, decode_answer
from plinth.domain.fleet import Artifact, ArtifactRefusal

MOST_AT_ONCE = 16
MOST_BYTES = 32 * 2**20
"""A configuration of the largest size, each of its characters written as six."""


class InspectorRest:
    """All inspectors, by address."""

    def __init__(self, secret_file: Path, *, timeout_seconds: float = ANSWER_SECONDS + 5.0) -> None:
        self._secret_file = secret_file
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=5.0)
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; the object can be used again afterwards."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def read(
        self, address: str, source: str, revision: str | None
    ) -> Artifact | ArtifactRefusal | None:
        """What the inspector at `host:port` found; None where it did not answer, or not now."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        query = {"source": source} | ({"revision": revision} if revision else {})
        headers = {"Authorization": f"Bearer {self._secret_file.read_text().strip()}"}
        try:
            async with (
                self._slots,
                self._session.get(f"http://{address}/artifact", params=query, headers=headers) as response,
            ):
                if response.status != 200:  # noqa: PLR2004 - HTTP's OK
                    return None
                return decode_answer(await _read_bounded(response))
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError):
            return None


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MOST_BYTES:
            raise ValueError("the answer is larger than any can be")
    return bytes(body)
