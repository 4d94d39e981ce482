"""What a replica says of itself: `GET …/plinth/state`, asked while it starts and now and then afterwards."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec

from plinth.domain.fleet import EngineReport


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
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        headers = {"Authorization": f"Bearer {self._secret_file.read_text().strip()}"}
        try:
            async with self._session.get(
                f"http://{host}:{port}/{slot}/plinth/state", headers=headers
            ) as response:
                if response.status != 200:  # noqa: PLR2004 - HTTP's OK
                    return None
                return msgspec.json.decode(await response.read(), type=EngineReport)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
            return None
