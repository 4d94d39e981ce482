"""What the fleet cycle asks of the outside. Each port has a real adapter in `cluster` and a contract test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from plinth.api.v1alpha1 import GPUPool, GPUPoolStatus, ModelDeployment, ModelDeploymentStatus
from plinth.cluster.capacity import CapacityObservation
from plinth.domain.fleet import Artifact, ArtifactRefusal, EngineReport, ModelKey, PoolPlan
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
    unreadable: frozenset[ModelKey] = frozenset()
    """Models that exist in no version that can be read: what runs of them is left alone."""


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
    """Rays and their workers: what there is and what runs, and how to say what should."""

    async def observe(self) -> CapacityObservation:
        """What there is now; a Ray that does not answer is told of as such."""

    async def apply(self, ray: str, config: Mapping[str, Any]) -> None:
        """Make this the whole Serve config of one Ray. Raises CapacityAway."""

    async def read_log(self, ray: str, actor_id: str, *, lines: int) -> str:
        """The last lines of a replica's stderr, dead or alive. Raises CapacityAway."""

    async def resize(self, plans: Sequence[PoolPlan], pools: Sequence[GPUPool]) -> bool:
        """Bring up and let go workers as planned; whether anything was written. Raises CapacityAway."""


class Replicas(Protocol):
    """The replicas themselves."""

    async def report(self, host: str, port: int, slot: str) -> EngineReport | None:
        """What the replica says of itself; None where it does not answer."""

    async def deliver(self, host: str, port: int, slot: str, token: str) -> bool:
        """Hand it the token that its model's source asks for; whether it took it."""


class Credentials(Protocol):
    """The secrets that models name."""

    async def read(self, namespace: str, ref: str) -> str:
        """The value of `name/key` in a namespace. Raises CredentialsError."""


class Gateway(Protocol):
    """The data plane."""

    def latest_report(self) -> tuple[LoadReport, float] | None:
        """The newest load report and when it came."""

    def send(self, table: RouteTable, *, unknown: frozenset[str] = frozenset()) -> int:
        """Make this the table that requests are routed by; returns its version.

        What is known of the `unknown` models stays as it is: nobody can tell now where their replicas are.
        """


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
    credentials: Credentials | None = None
    """None where replicas read their credentials from files."""
