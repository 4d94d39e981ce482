"""Sends spans to an OpenTelemetry collector: OTLP over HTTP, in JSON, between requests and in batches.

OpenTelemetry's SDK is not used: starting and ending one span with it takes 25 us of a core, more than a request's
whole way through the gateway. A request's spans are made here once, when it is over, and only if it is sampled.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final
from urllib.parse import urlsplit

from plinth.gateway.protocol.response import ResponseError, ResponseReader
from plinth.gateway.telemetry.record import RequestRecord
from plinth.gateway.telemetry.spans import encode_request, make_export

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_BATCH_BYTES: Final = 512 * 1024
_MOST_BYTES: Final = 4 * 1024 * 1024
"""Of spans that wait; what comes after is dropped and counted."""
_COME_BACK: Final = frozenset({429, 502, 503, 504})
"""OTLP/HTTP: only after these is the same request sent again."""
_OK: Final = range(200, 300)
_READ_BYTES: Final = 64 * 1024


class TraceExporter:
    """Told of each sampled request; a task sends what has gathered."""

    def __init__(self, url: str, resource: dict[str, str]) -> None:
        """`url` is the traces' own, ending in `/v1/traces` by custom."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} must be the address of a collector: http://HOST:PORT/v1/traces")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        lines = {
            "host": parts.netloc.rpartition("@")[2],
            "content-type": "application/json",
            "connection": "close",
        }
        self._head = f"POST {parts.path or '/'} HTTP/1.1\r\n".encode()
        self._head += b"".join(f"{name}: {value}\r\n".encode() for name, value in lines.items())
        self._resource = resource
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Requests whose spans were not sent."""

    def add(self, record: RequestRecord) -> None:
        """One request is over; nothing happens when its trace is not sampled."""
        trace = record.trace
        if trace is None or not trace.sampled:
            return
        spans = encode_request(record, trace)
        if self._bytes + len(spans) > _MOST_BYTES:
            self.dropped += 1
            return
        self._waiting.append(spans)
        self._bytes += len(spans)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_later())

    async def close(self) -> None:
        """Sends what waits, once, and gives up what cannot be sent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        while self._waiting and await self._send_batch():
            pass
        self.dropped += len(self._waiting)

    async def _send_later(self) -> None:
        while self._waiting:
            await asyncio.sleep(_EVERY_SECONDS + self._pause)
            while self._waiting and await self._send_batch():
                pass
        self._task = None

    async def _send_batch(self) -> bool:
        """Whether the next batch may follow at once."""
        count = size = 0
        for spans in self._waiting:
            if count and size + len(spans) > _BATCH_BYTES:
                break
            count, size = count + 1, size + len(spans)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._post(make_export(self._waiting[:count], self._resource))
        except (OSError, ResponseError) as error:
            self._hold_back(str(error) or "no answer in time", None)
            return False
        if answer.status in _COME_BACK:
            after = next((value for name, value in answer.headers if name == b"retry-after"), b"")
            self._hold_back(f"status {answer.status}", float(after) if after.isdigit() else None)
            return False
        if answer.status not in _OK:
            log.warning("the trace collector refuses spans of %d requests: status %d", count, answer.status)
            self.dropped += count
        del self._waiting[:count]
        self._bytes -= size
        self._pause = 0.0
        return True

    def _hold_back(self, detail: str, seconds: float | None) -> None:
        if not self._pause:
            log.warning("the trace collector does not take spans, they wait: %s", detail)
        doubled = max(_EVERY_SECONDS, self._pause * 2)
        self._pause = min(_LONGEST_PAUSE_SECONDS, doubled if seconds is None else max(seconds, doubled))

    async def _post(self, body: bytes) -> ResponseReader:
        stream, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            writer.write(self._head + b"content-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            answer = ResponseReader()
            while not answer.head_complete and (data := await stream.read(_READ_BYTES)):
                answer.feed(data)
            if not answer.head_complete:
                raise ConnectionError("the connection was closed before an answer")
            return answer
        finally:
            writer.close()
