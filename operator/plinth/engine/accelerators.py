"""Which accelerators of its node a replica's engine sees: chosen by index, said in the variables that drivers read.

Ray's nodes are started such that Ray chooses none itself (`RAY_EXPERIMENTAL_NOSET_…`, Ray 2.57's accelerator managers
in ray/_private/accelerators). So the plan's indices hold: they count what the node shows to Ray, which is all that its
driver has, or the list that the node's own variable names. An engine's process inherits what is said here.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from plinth.domain.fleet import SeenDevice
from plinth.engine.nvml import DriverDevice
from plinth.engine.seam import EngineError


class Maker(NamedTuple):
    """How one maker's software is told which devices to show."""

    name: str
    device_file: str
    """There when a machine has the maker's driver, below /dev."""
    variable: str
    """Names devices, separated by commas: numbers in the driver's order, or names of the driver's own."""
    aliases: tuple[str, ...] = ()
    """Further names of the variable, taken away: vLLM refuses two that differ (vllm/platforms/rocm.py)."""
    order: tuple[str, str] | None = None
    """A variable and its value that make numbers mean the order that the driver's tools show."""


MAKERS = (
    Maker(
        "NVIDIA",
        "nvidiactl",
        "CUDA_VISIBLE_DEVICES",
        # Without it CUDA puts the fastest first; neighbours by number are neighbours by link in the order of the bus.
        order=("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    ),
    Maker("AMD", "kfd", "HIP_VISIBLE_DEVICES", aliases=("CUDA_VISIBLE_DEVICES",)),
    Maker("Ascend", "davinci_manager", "ASCEND_RT_VISIBLE_DEVICES"),
)


def maker_here(devices: Path = Path("/dev")) -> Maker:
    """Whose driver this machine has; the first of the table where none shows, for then its variable does no harm."""
    return next((maker for maker in MAKERS if (devices / maker.device_file).exists()), MAKERS[0])


class ToldDevice(NamedTuple):
    """A device as an engine tells of it: whatever of this it knows."""

    ordinal: int
    """Among those it was shown."""
    uuid: str = ""
    address: str = ""
    """On the PCI bus, as in `0000:1b:00.0`."""


@dataclass(frozen=True, kw_only=True)
class NodeAccelerators:
    """One node's accelerators as its Ray counts them, and those of them that a replica has there."""

    node_id: str = ""
    own: tuple[str, ...] | None = None
    """What the node's own variable names; None: all that its driver has, numbered."""
    given: tuple[int, ...] = ()
    """By index among its own; none on a CPU node."""
    driver: tuple[DriverDevice, ...] = field(default=(), repr=False)
    """In the driver's order; empty where it cannot be asked."""

    def show(self, maker: Maker, environment: MutableMapping[str, str]) -> None:
        """From here on this process, and all that it starts, sees only what was given.

        Raises:
            EngineError: the node does not show as many as the plan counted on.
        """
        if not self.given:
            return
        names = [self._name(index) for index in self.given]
        environment[maker.variable] = ",".join(names)
        for alias in maker.aliases:
            environment.pop(alias, None)
        if maker.order is not None:
            environment.setdefault(*maker.order)

    def _name(self, index: int) -> str:
        if self.own is None:
            return str(index)
        if index >= len(self.own):
            raise EngineError(
                f"this node shows {len(self.own)} accelerators ({','.join(self.own)}), and the plan gave this replica "
                f"the one with index {index}"
            )
        return self.own[index]

    def seen(self, told: ToldDevice) -> SeenDevice | None:
        """Which of the node's this is; None where that cannot be said.

        What the driver knows comes before the order in which it was shown: it would tell if they were not the same.
        """
        place = next((each.place for each in self.driver if _is_same(told, each)), None)
        if place is None:
            if told.ordinal >= len(self.given):
                return None
            return SeenDevice(node_id=self.node_id, index=self.given[told.ordinal], uuid=told.uuid)
        index = self._index_of(place)
        if index is None:
            return None
        return SeenDevice(node_id=self.node_id, index=index, uuid=self.driver[place].uuid)

    def _index_of(self, place: int) -> int | None:
        """The index of the driver's device at this place in its order; None where the node does not show it."""
        if self.own is None:
            return place
        uuid = self.driver[place].uuid
        return next((i for i, name in enumerate(self.own) if name == str(place) or _begins(uuid, name)), None)


NO_ACCELERATORS = NodeAccelerators()
"""A node without any, or one whose environment is left as it is."""


def given_by_name(own: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...]:
    """The indices of what Ray chose: it tells numbers, or names of the node's own list."""
    if own is None:
        return tuple(sorted(int(name) for name in names))
    return tuple(sorted(own.index(name) for name in names))


def _begins(uuid: str, name: str) -> bool:
    """CUDA takes the beginning of a UUID for all of it: `GPU-5d2c`."""
    return name != "" and not name.isdigit() and uuid.startswith(name)


def _is_same(told: ToldDevice, device: DriverDevice) -> bool:
    """Drivers and engines write the same names in more or fewer letters: `GPU-` before a UUID, a long PCI domain."""
    if told.uuid and device.uuid:
        return told.uuid.rpartition("GPU-")[2] == device.uuid.rpartition("GPU-")[2]
    return bool(told.address) and _bus(told.address) == _bus(device.address)


def _bus(address: str) -> str:
    """`0000:1b:00.0` of it: NVML writes eight digits for the domain, and capitals."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
