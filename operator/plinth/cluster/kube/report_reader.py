"""The load reports of every gateway in the cluster, read by the leader: the reading half of SliceGateway.

One stream of report lines from the agent in each gateway's pod, begun again whenever it is cut. Nothing here adds up or
judges; a gateway that must be heard and is not makes the whole unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from plinth.cluster.kube.client import POD, KubeClient
from plinth.cluster.kube.gateway_pods import GATEWAY_LABELS, GatewayPod, must_be_heard, read_pods
from plinth.cluster.kube.reflector import Reflector
from plinth.domain.control_lines import ControlLineError, decode_line
from plinth.domain.traffic import LoadReport

REPORT_PORT = 8083
REPORT_PATH = "/reports"
SILENCE_SECONDS = 6.0
"""Gateways report every 2 s at least."""
CONNECT_SECONDS = 2.0
RETRY_SECONDS = 0.5
LONGEST_LINE_BYTES = 64 * 2**20

log = logging.getLogger(__name__)


@dataclass
class _Source:
    """One gateway and what was heard of it last."""

    pod: GatewayPod
    seen_at: float
    task: asyncio.Task[None] | None = None
    report: LoadReport | None = None
    heard_at: float | None = None
    trouble: str = ""
    """Why it is not heard; told once."""


class ReportReader:
    """Reports of all gateways whose pods run in the release's namespace."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        token_file: Path,
        clock: Callable[[], float],
        on_news: Callable[[], None],
        port: int = REPORT_PORT,
    ) -> None:
        """`on_news` is called after each report and whenever the gateways are others."""
        self._token_file = token_file
        self._clock = clock
        self._on_news = on_news
        self._port = port
        self._pods = Reflector(
            client, POD, namespace=namespace, labels=GATEWAY_LABELS, on_change=self._follow_pods
        )
        self._sources: dict[str, _Source] = {}
        """By the pod's uid."""
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Begin to read."""
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        self._pods.start()

    async def close(self) -> None:
        """End reading."""
        await self._pods.close()
        tasks = [source.task for source in self._sources.values() if source.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sources.clear()
        if self._session is not None:
            await self._session.close()

    def latest(self) -> tuple[list[LoadReport], float] | None:
        """Every gateway's newest report and when the newest came; None while one that must be heard is silent."""
        now = self._clock()
        heard: list[tuple[float, LoadReport]] = []
        for source in self._sources.values():
            at, report = source.heard_at, source.report
            if report is not None and at is not None and now - at <= SILENCE_SECONDS:
                heard.append((at, report))
            elif must_be_heard(source.pod, seen_at=source.seen_at, heard_at=at, now=now):
                return None
        if not heard:
            return None
        return [report for _, report in heard], max(at for at, _ in heard)

    def _follow_pods(self) -> None:
        pods = read_pods(self._pods.items.values())
        for uid in self._sources.keys() - pods.keys():
            gone = self._sources.pop(uid)
            if gone.task is not None:
                gone.task.cancel()
        for uid, pod in pods.items():
            source = self._sources.get(uid)
            if source is not None:
                source.pod = pod
                continue
            source = self._sources[uid] = _Source(pod, self._clock())
            source.task = asyncio.create_task(self._listen(source), name=f"reports of {pod.name}")
        self._on_news()

    async def _listen(self, source: _Source) -> None:
        while True:
            try:
                await self._read_reports(source)
                trouble = "its agent closed the connection"
            except (aiohttp.ClientError, OSError, TimeoutError, ControlLineError) as error:
                trouble = str(error) or type(error).__name__
            if trouble != source.trouble:
                log.info("the gateway %s is not heard: %s", source.pod.name, trouble)
                source.trouble = trouble
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_reports(self, source: _Source) -> None:
        assert self._session is not None  # noqa: S101 - started
        address = source.pod.address
        host = f"[{address}]" if ":" in address else address
        token = self._token_file.read_text(encoding="utf-8").strip()
        async with self._session.get(
            f"http://{host}:{self._port}{REPORT_PATH}",
            headers={"Authorization": f"Bearer {token}"},
            raise_for_status=True,
        ) as answer:
            async for line in _lines(answer.content):
                message = decode_line(line)
                if isinstance(message, LoadReport):
                    self._take(source, message)

    def _take(self, source: _Source, report: LoadReport) -> None:
        source.report, source.heard_at = report, self._clock()
        if source.trouble:
            log.info("the gateway %s is heard again", source.pod.name)
            source.trouble = ""
        self._on_news()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > LONGEST_LINE_BYTES:
            raise ControlLineError(f"a line is longer than {LONGEST_LINE_BYTES} bytes")
