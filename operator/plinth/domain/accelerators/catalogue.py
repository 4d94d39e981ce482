"""The accelerators that planning knows, read once from `catalogue.yaml`; sizing computes memory and speed from them.

A node says its accelerator's kind (Ray's name, or the product name that the driver tells) and how much memory it has.
One kind may stand for several products (`A100` has 40 or 80 GB): the memory decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

import msgspec
import msgspec.yaml

CPU = "CPU"
_PREFIXES = re.compile(r"^(NVIDIA|TESLA|AMD|INSTINCT|HUAWEI|GEFORCE)-")


class LinkKind(StrEnum):
    """What accelerators speak over."""

    NVLINK = "NVLink"
    XGMI = "xGMI"
    HCCS = "HCCS"
    PCIE = "PCIe"
    NONE = "none"
    """There is never a second one beside it."""


_PAIRWISE = frozenset({LinkKind.XGMI, LinkKind.HCCS})
"""Each accelerator has a link to every other one of the domain, and no switch between them."""


class _Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record of the catalogue; a field that it does not know is an error, not a typing slip that goes unseen."""


class Link(_Facts, frozen=True, kw_only=True):
    """How accelerators of one node reach each other."""

    kind: LinkKind
    bytes_per_second_per_accelerator: int
    """One direction, all links of an accelerator together."""
    domain_size: int
    """How many accelerators are linked like this at most."""

    def bytes_per_second_among(self, ranks: int) -> int:
        """What one of `ranks` accelerators can send to the others a second.

        A switch or a bus gives each its whole bandwidth, to whomever it speaks. Where every link joins a pair, fewer
        than all have fewer links between them: two MI300X have one of seven, 64 GB/s of 448.
        """
        if self.kind not in _PAIRWISE or not 1 < ranks < self.domain_size:
            return self.bytes_per_second_per_accelerator
        return self.bytes_per_second_per_accelerator * (ranks - 1) // (self.domain_size - 1)


class Flops(_Facts, frozen=True, kw_only=True):
    """Dense operations a second of the matrix units, by the width of what they multiply; 0: not in hardware."""

    bf16: int
    """Sixteen bits: fp16 on those that have no bfloat16."""
    fp8: int = 0
    int8: int = 0
    fp4: int = 0


class Accelerator(_Facts, frozen=True, kw_only=True):
    """One product. Figures are the maker's; what a kernel reaches of them is in sizing's calibration."""

    name: str
    aliases: tuple[str, ...] = ()
    """Other names that nodes call it by; case, maker and GeForce left out."""
    compute_capability: int = 0
    """CUDA's, times ten: 75 is 7.5, the first with tensor cores for fewer bits, 80 the first with bfloat16. 0: not CUDA."""
    memory_bytes: int
    """As the driver tells (`nvidia-smi`); 0 where it is the node's own memory."""
    usable_memory_bytes: int
    """What a process sees in all (`cudaMemGetInfo`): the rest is the driver's. An engine's share is a share of this."""
    bandwidth_bytes_per_second: int
    flops: Flops
    link: Link
    node_link_bytes_per_second: int
    """To other nodes, one direction, for each accelerator: a usual machine's network, not the accelerator's."""
    sources: tuple[str, ...]

    def usable_of(self, memory_bytes: int) -> int:
        """What a process sees of one with `memory_bytes`: what is known where it is this product, else a like share.

        A driver that tells 143,771 MiB of an H200 and a process that sees 139.8 GiB speak of the same one.
        """
        if not memory_bytes or not self.memory_bytes:
            return memory_bytes or self.usable_memory_bytes
        if memory_bytes <= self.usable_memory_bytes:
            return memory_bytes
        return memory_bytes * self.usable_memory_bytes // self.memory_bytes


@dataclass(frozen=True, kw_only=True)
class AcceleratorOverride:
    """What a pool knows better of its accelerators than the catalogue; None leaves a figure as it is."""

    memory_bytes: int | None = None
    bandwidth_bytes_per_second: int | None = None
    bf16_flops: int | None = None
    fp8_flops: int | None = None
    link_kind: LinkKind | None = None
    link_bytes_per_second: int | None = None
    link_domain_size: int | None = None
    node_link_bytes_per_second: int | None = None


def find_accelerator(kind: str, memory_bytes: int = 0) -> Accelerator | None:
    """The product that a node means by `kind`; of several with that name, the one whose memory is nearest.

    `NVIDIA-H200`, `H200` and `h200` are one; `A100` with 40,960 MiB is `A100-40GB`. None where nothing has the name.
    """
    able = _BY_NAME.get(_normalise(kind), ())
    return min(able, key=lambda each: (abs(each.memory_bytes - memory_bytes), each.name), default=None)


def override_accelerator(
    base: Accelerator | None, override: AcceleratorOverride, *, kind: str
) -> Accelerator | None:
    """The accelerator with a pool's own figures. One that the catalogue has not needs memory, bandwidth and bf16."""
    base = base or _blank(kind, override)
    if base is None:
        return None
    memory = override.memory_bytes
    flops = _given(bf16=override.bf16_flops, fp8=override.fp8_flops)
    link = _given(
        kind=override.link_kind,
        bytes_per_second_per_accelerator=override.link_bytes_per_second,
        domain_size=override.link_domain_size,
    )
    whole = _given(
        memory_bytes=memory,
        usable_memory_bytes=None if memory is None else base.usable_of(memory),
        bandwidth_bytes_per_second=override.bandwidth_bytes_per_second,
        node_link_bytes_per_second=override.node_link_bytes_per_second,
    )
    return msgspec.structs.replace(
        base,
        flops=msgspec.structs.replace(base.flops, **flops),
        link=msgspec.structs.replace(base.link, **link),
        **whole,
    )


def _given(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _blank(kind: str, override: AcceleratorOverride) -> Accelerator | None:
    """An accelerator that only its pool knows: alone on PCIe until the pool says otherwise."""
    memory, bandwidth, flops = (
        override.memory_bytes,
        override.bandwidth_bytes_per_second,
        override.bf16_flops,
    )
    if memory is None or bandwidth is None or flops is None:
        return None
    return Accelerator(
        name=kind,
        memory_bytes=memory,
        usable_memory_bytes=memory,
        bandwidth_bytes_per_second=bandwidth,
        flops=Flops(bf16=flops),
        link=Link(kind=LinkKind.PCIE, bytes_per_second_per_accelerator=32_000_000_000, domain_size=8),
        node_link_bytes_per_second=1_250_000_000,
        sources=("the pool's own figures",),
    )


def _normalise(kind: str) -> str:
    """`NVIDIA GeForce RTX 4090` becomes `RTX-4090`."""
    name = re.sub(r"[\s_-]+", "-", kind.strip().upper())
    while (shorter := _PREFIXES.sub("", name)) != name:
        name = shorter
    return name


def _read() -> tuple[Accelerator, ...]:
    data = resources.files(__package__ or "").joinpath("catalogue.yaml").read_bytes()
    return msgspec.yaml.decode(data, type=tuple[Accelerator, ...])


def _index(catalogue: tuple[Accelerator, ...]) -> dict[str, tuple[Accelerator, ...]]:
    by_name: dict[str, tuple[Accelerator, ...]] = {}
    for each in catalogue:
        for name in {_normalise(name) for name in (each.name, *each.aliases)}:
            by_name[name] = (*by_name.get(name, ()), each)
    return by_name


CATALOGUE = _read()
_BY_NAME = _index(CATALOGUE)
