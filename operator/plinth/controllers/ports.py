"""What the fleet cycle asks of the outside. Each port has a real adapter in `cluster` and a contract test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from plinth.api.v1alpha1 import GPUPool, GPUPoolStatus, ModelDeployment, ModelDeploymentStatus
from plinth.cluster.ray_rest import CapacityObservation
from plinth.domain.fleet import Artifact, ArtifactRefusal, EngineReport, ModelKey
from plinth.domain.traffic import LoadReport, RouteTable


@dataclass(frozen=True, kw_only=True)
class DesiredModel:
    """A ModelDeployment as the store holds it: the last good version, and what is wrong with a newer one."""

    resource: ModelDeployment
    first_seen: float
    invalid_edit: str = ""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """All that users asked for; each resource carries the status last written."""

    pools: tuple[GPUPool, ...] = ()
    models: tuple[DesiredModel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Statuses:
    """What is to be written back, by name."""

    pools: Mapping[str, GPUPoolStatus] = field(default_factory=dict)
    models: Mapping[ModelKey, ModelDeploymentStatus] = field(default_factory=dict)


class ResourceStore(Protocol):
    """Where resources live: a folder with SQLite beside it, or the Kubernetes API."""

    def read(self, now: float) -> Resources:
        """All resources, each as its last good version."""

    def write(self, statuses: Statuses) -> int:
        """Write the statuses that changed; returns how many did."""


class Capacity(Protocol):
    """Ray: what there is and what runs, and how to say what should."""

    async def observe(self) -> CapacityObservation:
        """What Ray has now. Raises CapacityAway."""

    async def apply(self, config: Mapping[str, Any]) -> None:
        """Make this the whole Serve config. Raises CapacityAway."""

    async def read_log(self, actor_id: str, *, lines: int) -> str:
        """The last lines of a replica's stderr, dead or alive. Raises CapacityAway."""


class Replicas(Protocol):
    """The replicas themselves."""

    async def report(self, host: str, port: int, slot: str) -> EngineReport | None:
        """What the replica says of itself; None where it does not answer."""


class Gateway(Protocol):
    """The data plane."""

    def latest_report(self) -> tuple[LoadReport, float] | None:
        """The newest load report and when it came."""

    def send(self, table: RouteTable) -> int:
        """Make this the table that requests are routed by; returns its version."""


class ModelReader(Protocol):
    """What can be read of a model without loading it."""

    def read(self, model: ModelDeployment) -> Artifact | ArtifactRefusal | None:
        """The model's configuration, or None while it is still being fetched (a wake-up follows)."""

    def forget_all_but(self, models: Iterable[ModelDeployment]) -> None:
        """Drop what is kept of models that no longer exist."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The cycle's whole outside."""

    store: ResourceStore
    capacity: Capacity
    replicas: Replicas
    gateway: Gateway
    models: ModelReader
