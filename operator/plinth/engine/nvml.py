"""What NVIDIA's driver says of a machine's accelerators: their names, and which are linked to each other.

Asked by the binding that Ray itself counts GPUs with (ray/_private/thirdparty, Ray 2.57), so there is no other to install.
"""

from __future__ import annotations

import contextlib
import logging
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
    linked: tuple[int, ...] | None = None
    """The places of all that it reaches over NVLink, itself included; None: not told."""


def read_devices(nvml: Any = pynvml) -> tuple[DriverDevice, ...]:
    """All that the driver shows this process, whatever CUDA is told to show; none where there is no driver."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(nvml.nvmlDeviceGetCount())]
        return tuple(_read(nvml, place, handles) for place in range(len(handles)))
    except nvml.NVMLError:
        _log.exception("The driver does not tell its devices.")
        return ()
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read(nvml: Any, place: int, handles: list[Any]) -> DriverDevice:
    return DriverDevice(
        place=place,
        uuid=_text(nvml.nvmlDeviceGetUUID(handles[place])),
        address=_text(nvml.nvmlDeviceGetPciInfo(handles[place]).busId),
        linked=_linked(nvml, place, handles),
    )


def _linked(nvml: Any, place: int, handles: list[Any]) -> tuple[int, ...] | None:
    """Through a switch or directly: the question that vLLM asks too (`is_fully_connected` in vllm/platforms/cuda.py)."""
    linked = []
    for other, handle in enumerate(handles):
        if other == place:
            linked.append(other)
            continue
        try:
            status = nvml.nvmlDeviceGetP2PStatus(handles[place], handle, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
        except nvml.NVMLError:
            return None
        if status == nvml.NVML_P2P_STATUS_OK:
            linked.append(other)
    return tuple(linked)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
