"""ModelDeployment: which model, how good it must be, and between which bounds it may scale."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from plinth.api.v1alpha1.meta import API_VERSION, Condition, DnsLabel, ObjectMeta, Resource


class Task(StrEnum):
    """What the model is asked to do; it decides the API paths that it answers."""

    GENERATE = "Generate"
    EMBED = "Embed"
    RERANK = "Rerank"


class EngineChoice(StrEnum):
    """The engine to run a model with, or `Auto` to let the planner choose by format and hardware."""

    AUTO = "Auto"
    LLAMA_CPP = "LlamaCpp"
    VLLM = "VLLM"


class SecretKeyRef(Resource):
    """One key of a Secret. Standalone: the file `secrets/NAME/KEY` in the watched folder."""

    name: DnsLabel
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]


class ModelSource(Resource):
    """Where the model comes from."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """`hf://org/name`, `file:///path` or `package://module/file`."""
    revision: Annotated[str, StringConstraints(pattern=r"^[-._/a-zA-Z0-9]+$", max_length=128)] | None = None
    """A branch, tag or commit of an `hf://` source; pin a commit to serve the same bytes for ever."""
    credentials: SecretKeyRef | None = None
    """The token for a gated `hf://` source."""
    task: Task = Task.GENERATE


class EngineSpec(Resource):
    """Which engine, and what to pass on to it."""

    type: EngineChoice = EngineChoice.AUTO
    args: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)], str] = Field(
        default_factory=dict, max_length=64
    )
    """Arguments of the engine by its own names without dashes in front (`enforce-eager: "true"`)."""


class Parallelism(Resource):
    """Degrees set by hand; absent, the planner computes them."""

    tensor: int = Field(ge=1, le=64)
    """Tensor parallel degree: over how many accelerators each layer is split."""


class Objectives(Resource):
    """How good the model must be, and the workload for which that holds."""

    ttft_milliseconds: int | None = Field(default=None, ge=1, le=600_000)
    """Time to first token that `percentile` of the requests must stay under."""
    tpot_milliseconds: int | None = Field(default=None, ge=1, le=60_000)
    """Time per output token, after the first, that `percentile` of the requests must stay under."""
    percentile: int = Field(default=95, ge=50, le=99)
    concurrency: int = Field(default=8, ge=1, le=4096)
    """Requests that one replica must hold at once."""
    input_tokens: int = Field(default=512, ge=1, le=10_000_000)
    """The objectives hold for requests with at most so many prompt tokens."""
    output_tokens: int = Field(default=256, ge=1, le=10_000_000)
    """The objectives hold for requests with at most so many generated tokens."""
    context_tokens: int = Field(default=2048, ge=64, le=10_000_000)
    """The longest request (prompt and answer) that a replica accepts."""


class Scaling(Resource):
    """Between which bounds the replicas follow the load."""

    min_replicas: int = Field(default=1, ge=0, le=1000)
    max_replicas: int = Field(default=1, ge=1, le=1000)
    target_utilization_percent: int = Field(default=80, ge=10, le=100)
    """Share of `objectives.concurrency` that is kept in flight on each replica before one is added."""
    quiet_seconds: int = Field(default=60, ge=1, le=86_400)
    """How long the load must have stayed low before a replica goes."""


class Rollout(Resource):
    """How a new revision takes over."""

    progress_deadline_seconds: int = Field(default=1800, ge=10, le=86_400)
    """How long a new replica may take to become ready before the rollout is called stuck."""
    drain_timeout_seconds: int = Field(default=3600, ge=1, le=86_400)
    """How long a replica that goes may take to finish its requests before they are cut."""


class ModelDeploymentSpec(Resource):
    """What to serve."""

    model: ModelSource
    served_name: (
        Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][-._:/a-zA-Z0-9]*$", max_length=128)] | None
    ) = None
    """The name clients ask for; the resource's own name unless given. `namespace/name` always works too."""
    pool: DnsLabel | None = None
    """The GPUPool to run on; absent, the planner chooses."""
    engine: EngineSpec = Field(default_factory=EngineSpec)
    parallelism: Parallelism | None = None
    objectives: Objectives = Field(default_factory=Objectives)
    scaling: Scaling = Field(default_factory=Scaling)
    rollout: Rollout = Field(default_factory=Rollout)


class Progress(Resource):
    """How far a starting replica is."""

    replica: str
    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    percent: int = Field(default=0, ge=0, le=100)
    eta_seconds: int | None = None


class ModelDeploymentStatus(Resource):
    """What Plinth decided and what runs."""

    observed_generation: int = 0
    revision: str = ""
    """The revision that the spec asks for."""
    answered_revision: str = ""
    """The newest revision that answered a real one-token request."""
    replicas: int = 0
    """Replicas that exist, ready or not."""
    ready_replicas: int = 0
    desired_replicas: int = 0
    selector: str = ""
    """For the scale subresource."""
    pool: str = ""
    engine: str = ""
    shape: str = ""
    """Replicas times parallelism, as in `2xTP4`."""
    accelerators: int = 0
    queued: int = 0
    """Requests that wait in the gateway."""
    cost_per_hour: str = "0"
    reason: str = ""
    """The reason of the condition that matters most now."""
    plan: list[str] = Field(default_factory=list, max_length=32)
    """Why: the plan's sentences about this model."""
    progress: list[Progress] = Field(default_factory=list, max_length=16)
    conditions: list[Condition] = Field(default_factory=list, max_length=16)


class ModelDeployment(Resource):
    """A model to serve."""

    api_version: Literal["plinth.dev/v1alpha1"] = API_VERSION
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = Field(default_factory=ModelDeploymentStatus)
