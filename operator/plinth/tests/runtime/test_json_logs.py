"""Log lines for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from plinth.runtime.json_logs import JsonFormatter, set_up_logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    handlers, level = found.handlers[:], found.level
    yield found
    found.handlers[:] = handlers
    found.setLevel(level)
    logging.getLogger("kopf").setLevel(logging.NOTSET)


def formatted(**changes: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {
            "name": "plinth.cycle",
            "levelname": "INFO",
            "levelno": 20,
            "created": 0.5,
            "msg": "it %s",
            "args": ("is",),
        }
        | changes
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found: dict[str, object] = json.loads(line)
    return found


def test_a_line_says_when_who_and_what() -> None:
    assert formatted() == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "plinth.cycle",
        "message": "it is",
    }


def test_what_a_line_is_about_stands_in_fields_of_its_own() -> None:
    line = formatted(model="team-a/smol", reason="Serving")
    assert (line["model"], line["reason"]) == ("team-a/smol", "Serving")


def test_a_fault_is_told_with_its_traceback_on_one_line() -> None:
    try:
        int("broken")
    except ValueError as error:
        line = formatted(exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: invalid literal" in str(line["exception"])


def test_kopf_speaks_only_of_trouble(root: logging.Logger) -> None:
    set_up_logs("text", "info")
    assert root.level == logging.INFO
    assert not logging.getLogger("kopf.objects").isEnabledFor(logging.INFO)
    assert logging.getLogger("kopf.objects").isEnabledFor(logging.WARNING)
