"""The snapshot that a plan is made from, and the plan: plain values, no clocks, no clients.

`gather` fills a FleetSnapshot, `domain.planner.compute_plan(snapshot, now)` makes a FleetPlan of it,
`execute` carries it out. Times are Unix seconds; sizes are bytes; both are passed in, never looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.domain.corrections import SpeedStretch
from plinth.domain.figures import Correction, EngineFigures, Prediction
from plinth.domain.models.headers import TensorGroup
from plinth.domain.sizing.shape import Rejected, Shape
from plinth.domain.traffic import LoadReport, RouteTable


# Names are tuples: a pass of a large fleet compares, sorts and looks up hundreds of thousands of them.
class ModelKey(NamedTuple):
    """A ModelDeployment's namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class SlotName(NamedTuple):
    """One replica's name, `namespace.name.revision.ordinal`; a slot is never reused for another replica."""

    model: ModelKey
    revision: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.model.namespace}.{self.model.name}.{self.revision}.{self.ordinal}"

    @classmethod
    def parse(cls, text: str) -> SlotName | None:
        """The slot with this name, or None when the text is not a slot's name (a foreign Serve application)."""
        parts = text.split(".")
        if len(parts) != 4 or not parts[3].isdigit():  # noqa: PLR2004 - the four parts named above
            return None
        return cls(ModelKey(parts[0], parts[1]), parts[2], int(parts[3]))


class Engine(StrEnum):
    """The engines behind the seam."""

    LLAMA_CPP = "LlamaCpp"
    VLLM = "VLLM"


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """All that decides what a replica answers; its digest is the revision. A replica gets it as JSON."""

    engine: Engine
    source: str
    source_revision: str | None
    credentials: str | None
    """`name/key` of the Secret; never its value."""
    task: str
    served_names: tuple[str, ...]
    context_tokens: int
    concurrency: int
    tensor_parallel: int
    threads: int
    """CPU threads for computing; 0 on accelerators."""
    memory_utilization_percent: int
    memory_bytes: int
    """Memory that the plan gives one replica on each accelerator (on a CPU node: in all)."""
    kv_bytes: int = 0
    """How much of `memory_bytes` is meant for the KV cache; 0 leaves it to the engine."""
    args: dict[str, str] = field(default_factory=dict)
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    data_parallel: int = 1
    adapters: dict[str, str] = field(default_factory=dict)
    """Sources of its LoRA adapters, by name."""
    adapter_rank: int = 0
    """The highest rank of an adapter that there is room for."""
    adapter_bytes: int = 0
    """Of `memory_bytes`, what the room takes on a CPU node; 0 on accelerators, where the engine sees to it."""

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """What clients ask for, and the engine is told, to be answered with an adapter: `chat:law`."""
        return tuple(f"{self.served_names[0]}:{name}" for name in self.adapters)

    @property
    def shape(self) -> Shape:
        """All its degrees."""
        return Shape(
            data=self.data_parallel,
            pipeline=self.pipeline_parallel,
            expert=self.expert_parallel,
            tensor=self.tensor_parallel,
        )


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one replica takes from each of its nodes."""

    accelerators: int
    memory_bytes: int
    """Host memory, counted on CPU nodes only; accelerators are counted whole."""
    nodes: int = 1
    stages: int = 1
    """Pipeline stages on each node: as many equal groups of its accelerators, each within one link domain."""

    @property
    def all_accelerators(self) -> int:
        """Those of all its nodes."""
        return self.nodes * self.accelerators


class SlotPlace(NamedTuple):
    """What one replica holds of one node. A replica's place is a tuple of them, the first on its Serve replica's node."""

    node_id: str
    accelerators: tuple[int, ...] = ()
    """By their index among those that the node's Ray has, in the order of the engine's ranks: stage by stage.

    Empty on a CPU node, and where the replica was told none: then only Ray knows which.
    """


@dataclass(frozen=True, kw_only=True)
class SeenDevice:
    """One accelerator that a replica's engine really computes on."""

    node_id: str
    index: int
    """Among those that the node's Ray has, in its order: what `SlotPlace.accelerators` holds."""
    uuid: str = ""
    """The driver's own name for it; empty where it has none."""


class NodeState(StrEnum):
    """What may be done with a node."""

    PRESENT = "Present"
    RETIRING = "Retiring"
    """Its Ray is being replaced, its pool deleted or its machine emptied: nothing new goes there, what runs moves."""
    POTENTIAL = "Potential"
    """No Ray node yet: a worker that would be brought up if the plan needs it."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine that replicas can run on."""

    node_id: str
    address: str
    labels: Mapping[str, str]
    cpus: int
    memory_bytes: int
    accelerator: str
    """Kind, as in `H200`; `CPU` where there is none."""
    accelerators: int
    accelerator_memory_bytes: int
    """Memory of one accelerator; 0 on a CPU node."""
    ray: str = ""
    """The RayCluster that it belongs to, `namespace/name`; empty for the one Ray of a machine."""
    pool: str = ""
    """The GPUPool that it was brought up for; empty where the pool's node selector decides."""
    group: str = ""
    """Its worker group: nodes of one group are alike."""
    worker: str = ""
    """Its pod; empty without Kubernetes."""
    state: NodeState = NodeState.PRESENT
    idle_since: float | None = None
    """Since when no replica holds anything on it; None while one does."""


class SlotPhase(StrEnum):
    """How far a replica is, from PUT to gone."""

    PENDING = "Pending"
    """Asked of Ray, no process yet."""
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    PROBING = "Probing"
    """Loaded; the one-token request is under way."""
    READY = "Ready"
    FAILED = "Failed"
    """Its engine or process died, or Ray gave up on it."""
    STOPPING = "Stopping"
    """No longer asked of Ray, still holding its place."""


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What a replica says of itself (`GET …/plinth/state`)."""

    phase: SlotPhase
    bytes_done: int = 0
    bytes_total: int = 0
    eta_seconds: int | None = None
    message: str = ""
    log_lines: tuple[str, ...] = ()
    """The engine's last meaningful log lines, once it failed."""
    needs_credentials: bool = False
    """It waits for the token that its model's source asks for."""
    figures: EngineFigures | None = None
    """What the engine told once it was ready; None before, and where it does not tell."""
    start_milliseconds: int | None = None
    """From the model's files at hand to the first answer."""
    accelerators: tuple[SeenDevice, ...] = ()
    """Those it computes on, stage by stage; empty on CPUs, and before the engine is up."""
    fault: str = ""
    """Why those of its first node are not to be trusted, as their driver says; empty where they are."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One replica as found at Ray."""

    name: SlotName
    spec: EngineSpec | None
    """None where its deployed arguments could not be read: a foreign or older one, to be replaced."""
    needs: Needs
    place: tuple[SlotPlace, ...] = ()
    """What it was told to run on; empty where that could not be read."""
    ray: str = ""
    """The Ray that lists it; see Node."""
    running_on: str | None
    """The node its Serve replica runs on, once it does."""
    phase: SlotPhase
    host: str | None = None
    port: int | None = None
    pid: int | None = None
    since: float = 0.0
    """When this slot was first seen by the cycle."""
    ready_since: float | None = None
    """When it was first seen Ready; None reads as `since`. It stays at least the quiet time from then on."""
    draining_since: float | None = None
    replaces: SlotName | None = None
    """The replica in whose stead it was started, so that others find room where that one is."""
    bytes_done: int = 0
    bytes_total: int = 0
    eta_seconds: int | None = None
    message: str = ""
    figures: EngineFigures | None = None
    """See EngineReport, as are the start's milliseconds, the accelerators that it sees and their fault."""
    start_milliseconds: int | None = None
    seen: tuple[SeenDevice, ...] = ()
    fault: str = ""

    @property
    def node_id(self) -> str:
        """The node it was told to run on, of several the first."""
        return self.place[0].node_id if self.place else ""

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes it holds something of: the first is where it runs, once it does."""
        return (self.running_on or self.node_id, *(each.node_id for each in self.place[1:]))

    @cached_property
    def is_numbered(self) -> bool:
        """Whether it was told which accelerators to compute on, and runs where it was told to."""
        elsewhere = self.running_on is not None and self.running_on != self.node_id
        return bool(self.place) and not elsewhere and all(each.accelerators for each in self.place)


class ModelFormat(StrEnum):
    """How a model's weights are stored."""

    GGUF = "GGUF"
    SAFETENSORS = "Safetensors"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What was read of a model without loading it. `config` is config.json, or the GGUF metadata, as found."""

    format: ModelFormat
    config: Mapping[str, object]
    weights_bytes: int
    tensors: tuple[TensorGroup, ...] = ()
    """What the headers of its files say of its tensors; empty where they were out of reach."""


@dataclass(frozen=True, kw_only=True)
class ArtifactRefusal:
    """Why a model could not be read; `reason` is an api Reason's value."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class LoadWindow:
    """A model's load over time, kept by gather; empty after a restart, which means unknown and not zero."""

    samples: tuple[tuple[float, int], ...] = ()
    """(time, peak of in flight + queued) of each report, oldest first, as far back as the quiet time."""
    watched_since: float | None = None
    """Since when reports have come without a gap; None while there are none."""
    ttft_met: int = 0
    ttft_missed: int = 0
    tpot_met: int = 0
    tpot_missed: int = 0
    """Requests of the stated workload over the last minutes."""


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """Failed replicas of one revision in a row, for backing off."""

    revision: str
    count: int
    last_at: float
    message: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """One ModelDeployment and what is known of it."""

    key: ModelKey
    resource: ModelDeployment
    first_seen: float
    """Orders served-name collisions: the older one keeps the name."""
    artifact: Artifact | ArtifactRefusal | None
    """None while it is being read."""
    answered_revision: str
    window: LoadWindow
    failure: FailureRecord | None
    invalid_edit: str = ""
    """The error of a newer edit that was refused; the resource is the last good one."""
    stretches: tuple[SpeedStretch, ...] = ()
    """What its replicas delivered under steady load lately, the newest last."""
    correction: Correction = field(default_factory=Correction)
    """What the pass before made of it."""


@dataclass(frozen=True, kw_only=True)
class Ray:
    """One Ray cluster: where replicas run, and whom to ask about them."""

    name: str = ""
    """`namespace/name` of its RayCluster; empty for the one Ray of a machine."""
    pool: str = ""
    """The GPUPool it was brought up for; empty: any."""
    answers: bool = True
    """While it does not, nothing on it is created, moved or removed: its nodes and slots are as last seen."""
    seen: bool = True
    """Whether it has answered since this process began; before, nobody knows which replicas run on it."""
    retiring: bool = False


@dataclass(frozen=True, kw_only=True)
class FleetSnapshot:
    """Everything a plan depends on."""

    pools: tuple[GPUPool, ...]
    models: tuple[Model, ...]
    nodes: tuple[Node, ...]
    slots: tuple[Slot, ...]
    report: LoadReport | None
    """The gateway's newest report; None when missing or too old: unknown, never zero."""
    rays: tuple[Ray, ...] = (Ray(),)
    unreadable: frozenset[ModelKey] = frozenset()
    """Models that exist in no version that can be read: what runs of them is left alone."""
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Why a pod of a pool does not come up, by pool."""


class SlotAction(StrEnum):
    """What the plan wants of a slot."""

    CREATE = "Create"
    KEEP = "Keep"
    DRAIN = "Drain"
    """Stays at Ray, gets no new request, goes when its requests have ended."""
    REMOVE = "Remove"
    AWAIT = "Await"
    """Not at Ray yet: its place is on a worker that is being brought up."""


@dataclass(frozen=True, kw_only=True)
class SlotPlan:
    """One replica's fate and why."""

    name: SlotName
    action: SlotAction
    spec: EngineSpec | None
    needs: Needs
    place: tuple[SlotPlace, ...]
    reason: str
    ray: str = ""
    """The Ray that runs it, or is to."""
    replaces: SlotName | None = None
    """See Slot."""

    @property
    def node_id(self) -> str:
        """The node of its Serve replica."""
        return self.place[0].node_id if self.place else ""

    @classmethod
    def of(cls, slot: Slot, action: SlotAction, reason: str) -> SlotPlan:
        """The fate of a slot that is there."""
        return cls(
            name=slot.name,
            action=action,
            spec=slot.spec,
            needs=slot.needs,
            place=slot.place,
            reason=reason,
            ray=slot.ray,
            replaces=slot.replaces,
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One condition of a resource before it is dated: `status` is True, False or None (unknown)."""

    type: str
    status: bool | None
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Everything decided about one model."""

    key: ModelKey
    pool: str
    spec: EngineSpec | None
    """What a new replica is told; None while there is no shape."""
    revision: str
    desired_replicas: int
    slots: tuple[SlotPlan, ...]
    reasons: tuple[str, ...]
    """Sentences for people: shape, engine, replicas, rollout, what was refused."""
    verdicts: tuple[Verdict, ...]
    prediction: Prediction | None = None
    """What a replica of this revision should measure; None while there is no shape."""
    rejected: tuple[Rejected, ...] = ()
    """Shapes that were not chosen for it, each with its reason."""
    retry_at: float | None = None
    """When a backed-off start is due."""


@dataclass(frozen=True, kw_only=True)
class WorkerGroupPlan:
    """How many Ray workers of one group there should be, and which go."""

    ray: str
    group: str
    workers: int
    remove: tuple[str, ...] = ()
    """Pods to go, by name."""


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """What a pool has and how much of it the plan takes."""

    name: str
    accelerator: str
    nodes: int
    accelerators: int
    accelerators_used: int
    memory_bytes: int
    memory_used_bytes: int
    verdicts: tuple[Verdict, ...]
    workers: tuple[WorkerGroupPlan, ...] = ()
    workers_ready: int = 0
    rays: tuple[str, ...] = ()
    """The pool's RayClusters, `namespace/name`."""
    retired: tuple[str, ...] = ()
    """RayClusters that hold nothing any more, to be deleted."""
    reasons: tuple[str, ...] = ()
    """Sentences for people: workers asked for and let go, a change of RayCluster and how it goes."""


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """One decision for all pools and models."""

    pools: tuple[PoolPlan, ...]
    models: tuple[ModelPlan, ...]
    orphans: tuple[SlotName, ...]
    """Slots at Ray of models that no longer exist and have nothing in flight: to be removed."""
    leaving: tuple[SlotPlan, ...] = ()
    """Slots of models that no longer exist and still have requests in flight: they drain first. Those of models that
    nobody can read stay."""
    routes: RouteTable
    """Version 0; the link to the gateway numbers it when it differs from the last one sent."""
    unknown_routes: frozenset[str] = frozenset()
    """Models whose replicas cannot be known now: the gateway goes on with what it has of them."""
    wake_at: float | None
    """When the plan would change by the passing of time alone (quiet time over, retry due, deadline reached)."""
