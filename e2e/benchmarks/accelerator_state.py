"""What a machine's accelerators are and hold now, as nvidia-smi says; nothing on a machine without any."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

import records

_FREE_SECONDS = 20.0
_REMNANT_MIB = 2048


def accelerators() -> list[dict[str, str]]:
    """Each accelerator's memory, clocks and power now; none on a CPU."""
    return _nvidia_smi("index", "memory.used", "memory.total", "clocks.sm", "power.draw", "temperature.gpu")


def wait_for_free(devices: Sequence[str]) -> None:
    """Return when the accelerators hold no more than a remnant: the next engine wants nearly all of their memory."""
    until = time.monotonic() + _FREE_SECONDS
    while time.monotonic() < until:
        here = [each for each in accelerators() if each["index"] in devices]
        if all(int(each["memory.used"]) < _REMNANT_MIB for each in here):
            return
        time.sleep(0.5)


def machine() -> dict[str, object]:
    """What the figures were measured on, and with which versions."""
    return {
        "accelerators": _nvidia_smi("name", "driver_version", "memory.total"),
        **records.installed_versions("vllm", "torch", "transformers", "triton", "uvloop"),
    }


def _nvidia_smi(*fields: str) -> list[dict[str, str]]:
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [dict(zip(fields, line.split(", "), strict=False)) for line in answer.strip().splitlines()]
