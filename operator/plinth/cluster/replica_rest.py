"""Speaks to replicas, which answer whoever shows the engines' secret.

`GET …/plinth/state` is asked while they start and now and then afterwards; `PUT …/plinth/credentials` gives those
that ask for it their source's token.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec

from plinth.domain.fleet import EngineReport

OK = 200


class ReplicaRest:
    """The adapter behind the cycle's `Replicas` port."""

    def __init__(self, secret_file: Path, *, timeout_seconds: float = 2.0) -> None:
        self._secret_file = secret_file
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; the object can be used again afterwards."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def report(self, host: str, port: int, slot: str) -> EngineReport | None:
        """The replica's own report, or None where it did not answer in time."""
        answer = await self._call("GET", f"http://{host}:{port}/{slot}/plinth/state")
        try:
            return msgspec.json.decode(answer, type=EngineReport) if answer is not None else None
        except msgspec.MsgspecError:
            return None

    async def deliver(self, host: str, port: int, slot: str, token: str) -> bool:
        """Hand a replica the token that it waits for; False where it does not take it, or did not answer."""
        url = f"http://{host}:{port}/{slot}/plinth/credentials"
        return await self._call("PUT", url, msgspec.json.encode({"token": token})) is not None

    async def _call(self, method: str, url: str, body: bytes | None = None) -> bytes | None:
        """The answer's body; None for any but a good one."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        headers = {"Authorization": f"Bearer {self._secret_file.read_text().strip()}"}
        try:
            async with self._session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                return await response.read() if response.status == OK else None
        except (aiohttp.ClientError, TimeoutError):
            return None
