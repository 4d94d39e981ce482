"""What NVIDIA's driver says of a machine's accelerators: their names, and whether their memory can be trusted.

Asked by the binding that Ray itself counts GPUs with (ray/_private/thirdparty, Ray 2.57), so there is no other to install.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from ray._private.thirdparty import pynvml

_log = logging.getLogger(__name__)


class DriverDevice(NamedTuple):
    """One accelerator, as its driver knows it."""

    place: int
    """In the driver's order, which is the bus's."""
    uuid: str = ""
    address: str = ""
    """On the PCI bus."""


def read_devices(nvml: Any = pynvml) -> tuple[DriverDevice, ...]:
    """All that the driver shows this process, whatever CUDA is told to show; none where there is no driver."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        return tuple(_read(nvml, place) for place in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        _log.exception("The driver does not tell its devices.")
        return ()
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read(nvml: Any, place: int) -> DriverDevice:
    handle = nvml.nvmlDeviceGetHandleByIndex(place)
    return DriverDevice(
        place=place,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        address=_text(nvml.nvmlDeviceGetPciInfo(handle).busId),
    )


def find_fault(uuids: Iterable[str], nvml: Any = pynvml) -> str:
    """Why one of these accelerators is not to be trusted; empty where the driver knows nothing against them."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ""
    try:
        return next(
            (
                f"{uuid} has failing memory that can no longer be remapped"
                for uuid in uuids
                if _fails(nvml, uuid)
            ),
            "",
        )
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _fails(nvml: Any, uuid: str) -> bool:
    """By NVIDIA's own criterion for replacing one; single errors are contained, and end the engine if they hit it."""
    with contextlib.suppress(nvml.NVMLError):  # another node's, or of a generation that remaps nothing
        _, _, _, failed = nvml.nvmlDeviceGetRemappedRows(nvml.nvmlDeviceGetHandleByUUID(uuid))
        return bool(failed)
    return False


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
