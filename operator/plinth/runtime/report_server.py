"""What a gateway's agent serves: its load reports to whoever leads, and whether kubelet should find it well."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from plinth.cluster.kube.report_reader import REPORT_PATH
from plinth.domain.control_lines import encode_report
from plinth.domain.traffic import LoadReport


class ReportServer:
    """One stream of report lines for each reader; a slow one gets only the newest."""

    def __init__(self, *, token_file: Path, is_ready: Callable[[], bool]) -> None:
        self._token_file = token_file
        self._is_ready = is_ready
        self._line: bytes | None = None
        self._readers: set[asyncio.Event] = set()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError when the address is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get(REPORT_PATH, self._stream),
                web.get("/healthz", self._health),
                web.get("/readyz", self._readiness),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_address=True).start()

    async def close(self) -> None:
        """Hang up."""
        if self._runner is not None:
            await self._runner.cleanup()

    def publish(self, report: LoadReport) -> None:
        """Tell every reader."""
        self._line = encode_report(report)
        for reader in self._readers:
            reader.set()

    def fall_silent(self) -> None:
        """The gateway is gone: a new reader must not take its last report for news."""
        self._line = None

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not self._is_allowed(request):
            raise web.HTTPUnauthorized(text="the bearer token of the Secret plinth-gateway is needed\n")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        news = asyncio.Event()
        self._readers.add(news)
        try:
            sent: bytes | None = None
            while True:
                news.clear()
                if self._line is not None and self._line is not sent:
                    sent = self._line
                    await response.write(sent)
                else:
                    await news.wait()
        except ConnectionError:
            return response
        finally:
            self._readers.discard(news)

    def _is_allowed(self, request: web.Request) -> bool:
        try:
            token = self._token_file.read_bytes().strip()
        except OSError:
            return False
        given = request.headers.get("Authorization", "").encode()
        return bool(token) and hmac.compare_digest(given, b"Bearer " + token)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._is_ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the gateway has no route table yet\n")
