"""What happens to a request's record when the request is over: counted, logged, traced. One call of the data path."""

from __future__ import annotations

from typing import Final

from plinth.gateway.options import Telling
from plinth.gateway.server.log_lines import LineWriter
from plinth.gateway.server.trace_export import TraceExporter
from plinth.gateway.telemetry.access_log import access_line
from plinth.gateway.telemetry.families import RequestFamilies
from plinth.gateway.telemetry.record import RequestRecord

_STANDARD_OUTPUT: Final = 1


def make_afterwards(telling: Telling, instance: str) -> Afterwards:
    """As the command line asks for it; `instance` is this process's name among gateways."""
    lines = LineWriter(_STANDARD_OUTPUT) if telling.access_log else None
    exporter = None
    if telling.traces_url:
        resource = {"service.name": "plinth-gateway", "service.instance.id": instance}
        exporter = TraceExporter(telling.traces_url, resource)
    return Afterwards(lines=lines, exporter=exporter)


class Afterwards:
    """Log and traces only where they are asked for."""

    def __init__(self, *, lines: LineWriter | None = None, exporter: TraceExporter | None = None) -> None:
        self.families = RequestFamilies()
        self._lines = lines
        self._exporter = exporter

    def tell(self, record: RequestRecord) -> None:
        """One request is over."""
        self.families.count(record)
        if self._lines is not None:
            self._lines.add(access_line(record))
        if self._exporter is not None:
            self._exporter.add(record)

    def dropped(self) -> dict[str, float]:
        """What was never told, since nobody took it in time."""
        found: dict[str, float] = {}
        if self._lines is not None:
            found["log_line"] = self._lines.dropped
        if self._exporter is not None:
            found["trace"] = self._exporter.dropped
        return found

    async def close(self) -> None:
        """Lets go of what waits, within seconds."""
        if self._exporter is not None:
            await self._exporter.close()
        if self._lines is not None:
            self._lines.close()
