"""What an engine wrote last, cut down to the lines that tell a person why it failed.

A Ray worker's stderr is a file of its own, and everything it starts inherits it: C++ logs of llama.cpp and the
processes of vLLM all end there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 256 * 1024
_MAX_LINES = 8
_MAX_BYTES = 2048
_MAX_LINE = 400
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")
_PROGRESS_BAR = re.compile(r"\d+%\|.*\|")
_STACK_FRAME = re.compile(
    r'^\s+|^Traceback \(most recent|^File "|^During handling|^The above exception|^\s*\^+\s*$'
)
_PREFIX = re.compile(
    r"^(?:\((?:pid=\d+|[^()]*pid[^()]*|EngineCore[^()]*|APIServer[^()]*|Worker[^()]*)\)\s*)+|^[\d.]+ (?=[EWI] )"
)
_VLLM_HEAD = re.compile(r"^(?P<level>ERROR|WARNING|INFO|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] ?)?")
_LLAMA_CPP_INFO = re.compile(r"^[\d.]+ I ")
_CAUSE = re.compile(
    r"^E |\b(?:\w+(?:Error|Exception)|error|failed|fatal|abort(?:ed)?|assert\w*|out of memory|killed|terminate called)\b",
    re.IGNORECASE,
)
_ECHO = re.compile(
    r"EngineCore failed to start|Engine core initialization failed|See root cause above|^E srv +init: exiting"
    r"|common_fit_params|^E \S+ .*failed to load model$|failed to load model from$"
)
"""Lines that only repeat that something failed; kept when nothing better is there."""


@dataclass(frozen=True)
class LogMark:
    """A place in this process's stderr file, to read on from."""

    path: Path | None
    offset: int

    @classmethod
    def here(cls) -> LogMark:
        """The present end of stderr; of nothing where stderr is no file."""
        try:
            path = Path("/proc/self/fd/2").readlink()
            return cls(path, path.stat().st_size) if path.is_file() else cls(None, 0)
        except OSError:
            return cls(None, 0)

    def meaningful_lines(self) -> tuple[str, ...]:
        """The lines written since that tell most, oldest first: at most 8 lines and 2 KB."""
        return select_lines(self.written())

    def last_percent(self, label: str) -> int | None:
        """The newest percentage of the progress bar with this label; None if it has not shown."""
        shown = re.findall(re.escape(label) + r"\s*(\d+)%", self.written())
        return int(shown[-1]) if shown else None

    def written(self) -> str:
        """What was written since, as far back as a tail reaches."""
        if self.path is None:
            return ""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self.offset, end - _TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def select_lines(text: str) -> tuple[str, ...]:
    """The lines of a log that name a cause, or its last lines if none does: at most 8 lines and 2 KB."""
    cleaned = [line for line in map(_clean, text.splitlines()) if line]
    causes = [line for line in cleaned if _CAUSE.search(line)]
    telling = [line for line in causes if not _ECHO.search(line)]
    return _newest(dict.fromkeys(telling or causes or cleaned))


def _clean(line: str) -> str:
    """The line without colours, prefixes and stack frames; empty if nothing is left worth reading."""
    line = _ANSI.sub("", line.rsplit("\r", 1)[-1])
    if _LLAMA_CPP_INFO.match(line):
        return ""
    line = _PREFIX.sub("", line)
    head = _VLLM_HEAD.match(line)
    if head is not None:
        if head["level"] in {"INFO", "DEBUG"}:
            return ""
        line = line[head.end() :]
    if not line.strip() or _STACK_FRAME.match(line) or _PROGRESS_BAR.search(line):
        return ""
    return line.strip()[:_MAX_LINE]


def _newest(lines: dict[str, None]) -> tuple[str, ...]:
    kept: list[str] = []
    room = _MAX_BYTES
    for line in list(lines)[: -_MAX_LINES - 1 : -1]:
        room -= len(line.encode())
        if room < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))
