"""How many workers a gateway gets when nobody says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CPU_LIMIT_FILE: Final = Path("/sys/fs/cgroup/cpu.max")
"""The container's limit, as `microseconds each-microseconds` or `max …` (Linux, control groups v2)."""


def usable_cores(limit_file: Path = CPU_LIMIT_FILE) -> int:
    """The cores that this process may use: those it is bound to, at most the whole ones of its container's limit.

    Workers beyond the limit would only make the kernel stop all of them in turn.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limit_file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
