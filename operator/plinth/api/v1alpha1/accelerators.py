"""What a GPUPool knows better of its accelerators than the catalogue that the planner computes with."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from plinth.api.v1alpha1.meta import Int, Resource

AcceleratorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*$", max_length=63)]


class AcceleratorLinkKind(StrEnum):
    """What accelerators of one node speak over."""

    NVLINK = "NVLink"
    XGMI = "xGMI"
    HCCS = "HCCS"
    PCIE = "PCIe"


class AcceleratorLink(Resource):
    """How accelerators of one node reach each other."""

    kind: AcceleratorLinkKind | None = None
    """What they speak over."""
    gigabytes_per_second: Int | None = Field(default=None, ge=1, le=1_000_000)
    """One direction, all links of one accelerator together, in 10^9 bytes."""
    domain_size: Int | None = Field(default=None, ge=1, le=1024)
    """How many accelerators of a node are linked like this; a model's layers are split over no more."""


class AcceleratorType(Resource):
    """Figures of one kind of accelerator. What is absent is as in the catalogue, or assumed to be slow."""

    name: AcceleratorName
    """The kind, as in spec.accelerator and status.accelerator."""
    memory_mib: Int | None = Field(default=None, ge=1, le=10_000_000)
    """Memory of one accelerator, as its driver tells; it counts more than what nodes say."""
    memory_gigabytes_per_second: Int | None = Field(default=None, ge=1, le=1_000_000)
    """Bandwidth of that memory, in 10^9 bytes."""
    bf16_teraflops: Int | None = Field(default=None, ge=1, le=1_000_000)
    """Dense 16-bit operations of the matrix units a second, in 10^12; the rate with sparsity is twice that."""
    fp8_teraflops: Int | None = Field(default=None, ge=1, le=1_000_000)
    """Dense 8-bit floating point operations likewise."""
    link: AcceleratorLink = Field(default_factory=AcceleratorLink)
    """How accelerators of one node reach each other."""
    network_gigabytes_per_second: Int | None = Field(default=None, ge=1, le=100_000)
    """To other nodes, one direction, for each accelerator."""


AcceleratorTypes = Annotated[
    list[AcceleratorType],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ),
]
