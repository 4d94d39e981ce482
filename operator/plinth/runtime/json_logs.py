"""The operator's log: a JSON object a line for machines, or plain text for people.

What a line is about stands in fields of its own (`model`, `pool`, `reason` and so on, given as `extra=`), so that it can
be searched by. Nothing secret is ever logged; what is logged of a fault is its text, which holds none.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

FORMATS = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")
QUIET = {
    "kopf": logging.WARNING,  # tells of every event and every login
    "kopf._core.reactor.running": logging.ERROR,
    "kopf._core.reactor.observation": logging.ERROR,
    "aiohttp.access": logging.WARNING,
}
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN | line.keys()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logs(form: str, level: str) -> None:
    """Log to stderr from now on, in one of FORMATS, from one of LEVELS."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(least, logging.getLogger().level))
