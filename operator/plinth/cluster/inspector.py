"""Looks into sources that only a pool's own pods can see, for the operator: served in the pod of each Ray head.

`GET /artifact?source=URI` with the engines' secret answers what `read_artifact` found there: the same code and the
same bounds as for any other source, on the files that the replicas will have. `GET /healthz` asks for no secret.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import msgspec
from aiohttp import web

from plinth.cluster.artifacts import read_artifact
from plinth.domain.fleet import Artifact, ArtifactRefusal
from plinth.domain.sources import SourceScheme
from plinth.engine.local_sources import SourcePlaces

READERS = 4
MOST_WAITING = 64
"""Questions at once, those that wait for a reader included; more are sent away, to come back."""
ANSWER_SECONDS = 60.0


class Answered(msgspec.Struct, kw_only=True):
    """The body of an answer: one of the two."""

    artifact: Artifact | None = None
    refusal: ArtifactRefusal | None = None


class Inspector:
    """The server's part of it: checks the secret, bounds the work, reads in threads."""

    def __init__(
        self, secret_file: Path, places: SourcePlaces, *, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._secret_file = secret_file
        self._places = places
        self._answer_seconds = answer_seconds
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="inspect")
        self._under_way: set[Future[Artifact | ArtifactRefusal]] = set()

    def app(self) -> web.Application:
        """What aiohttp serves."""
        app = web.Application()
        app.add_routes([web.get("/artifact", self._artifact), web.get("/healthz", _healthy)])
        return app

    async def _artifact(self, request: web.Request) -> web.Response:
        expected = f"Bearer {self._secret_file.read_text().strip()}"
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode()):
            return _refuse(401, "only the operator is answered here")
        source = request.query.get("source", "")
        if not source or source.startswith(f"{SourceScheme.HF}://"):
            return _refuse(400, "source must be a file://, package:// or pvc:// URI")
        if len(self._under_way) >= MOST_WAITING:
            return _refuse(503, "too many questions at once; ask again")
        try:
            async with asyncio.timeout(self._answer_seconds):
                found = await asyncio.wrap_future(self._read(source, request.query.get("revision")))
        except TimeoutError:
            return _refuse(504, f"{source} was not read within {self._answer_seconds:.0f} s")
        return web.Response(body=encode_answer(found), content_type="application/json")

    def _read(self, source: str, revision: str | None) -> Future[Artifact | ArtifactRefusal]:
        """Counted until the thread has ended, which may be long after nobody waits for it any more."""
        reading = self._readers.submit(read_artifact, source, revision, places=self._places)
        self._under_way.add(reading)
        reading.add_done_callback(self._under_way.discard)
        return reading


def encode_answer(found: Artifact | ArtifactRefusal) -> bytes:
    """An answer as JSON. Not msgspec's: a model's configuration may hold numbers that only Python's takes."""
    name = "artifact" if isinstance(found, Artifact) else "refusal"
    return json.dumps({name: asdict(found)}).encode()


def decode_answer(body: bytes) -> Artifact | ArtifactRefusal:
    """The answer that `encode_answer` wrote.

    Raises:
        ValueError: this is none.
    """
    answered = msgspec.convert(json.loads(body), type=Answered)
    found = answered.artifact or answered.refusal
    if found is None:
        raise ValueError("neither an artifact nor a refusal")
    return found


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
