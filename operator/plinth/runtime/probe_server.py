"""What kubelet and Prometheus ask of a process: /healthz, /readyz and /metrics, on one port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ProbeServer:
    """Each probe gives what is wrong, or nothing where all is well. That it answers shows that the event loop lives."""

    def __init__(
        self, *, health: Callable[[], str], readiness: Callable[[], str], metrics: Callable[[], bytes]
    ) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", _probe(health)),
                web.get("/readyz", _probe(readiness)),
                web.get("/metrics", _page(metrics)),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self.port = 0
        """The port it listens on, once started."""

    async def start(self, host: str | None, port: int) -> None:
        """Listen, on all addresses without a host, on any free port for 0. Raises OSError."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()


def _probe(trouble: Callable[[], str]) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        found = trouble()
        return web.Response(status=503 if found else 200, text=found or "ok")

    return answer


def _page(content: Callable[[], bytes]) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content(), headers={"Content-Type": METRICS_TYPE})

    return answer
