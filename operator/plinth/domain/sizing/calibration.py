"""The few measured constants of sizing, read once from `calibration.yaml`: none belongs to one model."""

from __future__ import annotations

from importlib import resources

import msgspec
import msgspec.yaml

from plinth.domain.accelerators.catalogue import LinkKind
from plinth.domain.fleet import Engine


class MemoryConstants(msgspec.Struct, frozen=True, eq=False, kw_only=True, forbid_unknown_fields=True):
    """What an engine takes that no formula gives; see the file for each."""

    hidden_copies: int
    base_bytes: int
    communication_bytes: int
    graph_bytes_per_layer: int
    cpu_bytes: dict[Engine, int]


class SpeedConstants(msgspec.Struct, frozen=True, eq=False, kw_only=True, forbid_unknown_fields=True):
    """Fractions of what hardware could do, and times that no formula gives; see the file for each."""

    bandwidth_fraction: float
    cache_bandwidth_fraction: float
    flops_fraction: float
    attention_flops_fraction: float
    narrow_flops_fraction: float
    expert_flops_fraction: float
    expert_bandwidth_fraction: float
    unpacking_flops_fraction: float
    link_fraction: float
    layer_microseconds: float
    expert_layer_microseconds: float
    narrow_layer_microseconds: float
    unpacking_layer_microseconds: float
    step_microseconds: float
    core_step_microseconds: float
    core_request_microseconds: float
    launch_layer_microseconds: float
    launch_expert_layer_microseconds: float
    launch_exchange_layer_microseconds: float
    host_request_microseconds: float
    admission_microseconds: float
    admission_token_microseconds: float
    request_microseconds: float
    cpu_fraction: float
    exchange_microseconds: float
    all_reduce_microseconds: dict[LinkKind, float]
    node_microseconds: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All constants."""

    memory: MemoryConstants
    speed: SpeedConstants


def read_calibration(data: bytes) -> Calibration:
    """The constants of a file.

    Raises:
        msgspec.ValidationError: one is missing or unknown.
    """
    return msgspec.yaml.decode(data, type=Calibration)


CALIBRATION = read_calibration(resources.files(__package__ or "").joinpath("calibration.yaml").read_bytes())
