"""ModelDeployment: which model, how good it must be, and between which bounds it may scale."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, computed_field, model_validator

from plinth.api.v1alpha1.figures import Measured, Predicted
from plinth.api.v1alpha1.meta import (
    API_VERSION,
    Conditions,
    DecimalString,
    DnsLabel,
    Int,
    ObjectMeta,
    Observed,
    Resource,
    ResourceKey,
    without_nulls,
)
from plinth.api.v1alpha1.model_traffic import Adapters, Aliases, Fallbacks, Routing, ServedName, Traffic
from plinth.api.v1alpha1.replica_places import ReplicaPlace


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


SecretKey = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9_][-._a-zA-Z0-9]*$", min_length=1, max_length=253)
]
Revision = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][-._/a-zA-Z0-9]*$", min_length=1, max_length=128)
]


class SecretKeyRef(Resource):
    """One key of a Secret. Standalone: the file `secrets/NAME/KEY` in the watched folder."""

    name: DnsLabel
    """Name of the Secret, in the model's namespace."""
    key: SecretKey
    """The key whose value is the token."""


class ModelSource(Resource):
    """Where the model comes from."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """`hf://org/name` (`@revision` and `/file.gguf` may follow), `file:///path`, `package://module/file`, or
    `pvc://claim/path` on a pool that mounts the claim."""
    revision: Revision | None = None
    """A branch, tag or commit of an `hf://` source; pin a commit to serve the same bytes for ever."""
    credentials: SecretKeyRef | None = None
    """The token for a gated `hf://` source."""
    task: Task = Task.GENERATE
    """What the model is asked to do; it decides the API paths that it answers."""


class EngineSpec(Resource):
    """Which engine, and what to pass on to it."""

    type: EngineChoice = EngineChoice.AUTO
    """The engine, or `Auto` to let the planner choose by format and hardware."""
    args: dict[str, Annotated[str, StringConstraints(max_length=1024)]] = Field(
        default_factory=dict, max_length=64
    )
    """Arguments of the engine by its own names without dashes in front (`enforce-eager: "true"`)."""


class Parallelism(Resource):
    """Degrees set by hand; the planner computes those that are absent."""

    tensor: Int | None = Field(default=None, ge=1, le=64)
    """Tensor parallel degree: over how many accelerators each layer is split."""
    pipeline: Int | None = Field(default=None, ge=1, le=64)
    """Pipeline parallel degree: into how many stages the layers are parted, each on accelerators of its own."""
    expert: Int | None = Field(default=None, ge=1, le=512)
    """Expert parallel degree: over how many accelerators whole experts are spread; tensor times data, or 1."""
    data: Int | None = Field(default=None, ge=1, le=64)
    """Data parallel degree: copies in one replica that share their experts; other models take more replicas."""


DEFAULT_INPUT_TOKENS = 512
DEFAULT_OUTPUT_TOKENS = 256
DEFAULT_CONTEXT_TOKENS = 2048


class Objectives(Resource):
    """How good the model must be, and the workload for which that holds."""

    ttft_milliseconds: Int | None = Field(default=None, ge=1, le=600_000)
    """Time to first token that `percentile` of the requests must stay under."""
    tpot_milliseconds: Int | None = Field(default=None, ge=1, le=60_000)
    """Time per output token, after the first, that `percentile` of the requests must stay under."""
    percentile: Int = Field(default=95, ge=50, le=99)
    """Percentage of the requests that must meet the objectives."""
    concurrency: Int = Field(default=8, ge=1, le=4096)
    """Requests that one replica must hold at once."""
    input_tokens: Int = Field(
        default=DEFAULT_INPUT_TOKENS,
        ge=1,
        le=10_000_000,
        json_schema_extra={"x-plinth-computed": "512, less where contextTokens leaves less"},
    )
    """The objectives hold for requests with at most so many prompt tokens."""
    output_tokens: Int = Field(
        default=DEFAULT_OUTPUT_TOKENS,
        ge=1,
        le=10_000_000,
        json_schema_extra={"x-plinth-computed": "256, less where contextTokens leaves less"},
    )
    """The objectives hold for requests with at most so many generated tokens."""
    context_tokens: Int = Field(default=DEFAULT_CONTEXT_TOKENS, ge=64, le=10_000_000)
    """The longest request (prompt and answer) that a replica accepts."""

    @model_validator(mode="before")
    @classmethod
    def _size_workload(cls, data: Any) -> Any:
        return _with_workload(without_nulls(data)) if isinstance(data, Mapping) else data


def _with_workload(given: dict[str, Any]) -> dict[str, Any]:
    """The objectives with the absent ones of input and output tokens fitted into the context.

    `contextTokens: 512` alone becomes 341 in and 171 out: two thirds for the prompt, as in the defaults.
    """

    def read(name: str, alias: str) -> Any:
        return given.get(alias, given.get(name))

    asked_in = read("input_tokens", "inputTokens")
    asked_out = read("output_tokens", "outputTokens")
    context = read("context_tokens", "contextTokens")
    context = DEFAULT_CONTEXT_TOKENS if context is None else context
    if not all(type(value) in {int, type(None)} for value in (asked_in, asked_out, context)):
        return given  # the fields' own types are checked next and say what is wrong
    room_in = context * 2 // 3 if asked_out is None else context - asked_out
    tokens_in = max(1, min(DEFAULT_INPUT_TOKENS, room_in)) if asked_in is None else asked_in
    tokens_out = max(1, min(DEFAULT_OUTPUT_TOKENS, context - tokens_in)) if asked_out is None else asked_out
    rest = {k: v for k, v in given.items() if k not in {"input_tokens", "output_tokens"}}
    return rest | {"inputTokens": tokens_in, "outputTokens": tokens_out}


class Scaling(Resource):
    """Between which bounds the replicas follow the load."""

    min_replicas: Int = Field(default=1, ge=0, le=1000)
    """Replicas that always run; 0 lets an idle model go, its next request waits while one starts.
    `kubectl scale --replicas` sets this."""
    max_replicas: Int = Field(default=1, ge=1, le=1000)
    """Replicas that run at most, whatever the load."""
    target_utilization_percent: Int = Field(default=80, ge=10, le=100)
    """Share of `objectives.concurrency` that is kept in flight on each replica before one is added."""
    quiet_seconds: Int = Field(default=60, ge=1, le=86_400)
    """How long the load must have stayed low before a replica goes."""


class Rollout(Resource):
    """How a new revision takes over."""

    progress_deadline_seconds: Int = Field(default=1800, ge=10, le=86_400)
    """How long a new replica may take to become ready before the rollout is called stuck."""
    drain_timeout_seconds: Int = Field(default=3600, ge=1, le=86_400)
    """How long a replica that goes may take to finish its requests before they are cut."""


class ModelDeploymentSpec(Resource):
    """What to serve."""

    model: ModelSource
    """Where the model comes from; all that must be written."""
    served_name: ServedName | None = None
    """The name clients ask for; the resource's own name unless given. `namespace/name` always works too."""
    aliases: Aliases = Field(default_factory=list)
    """Further names, which other models may have too; `name@version` is a version of `name`, and answers for the bare
    `name` where no model has it."""
    fallbacks: Fallbacks = Field(default_factory=list)
    """Names of models that answer when this one cannot, the best first."""
    routing: Routing = Field(default_factory=Routing)
    """How the replica that answers a request is chosen."""
    traffic: Traffic | None = None
    """The part of another model's requests that this one takes, as its canary or its mirror."""
    adapters: Adapters = Field(default_factory=list)
    """LoRA adapters that its replicas load beside it; with vLLM only."""
    pool: DnsLabel | None = None
    """The GPUPool to run on; absent, the planner chooses."""
    priority: Int = Field(default=0, ge=-1_000_000_000, le=1_000_000_000)
    """Where not all models fit, higher ones are placed first, and displace replicas of lower ones: first those beyond
    `scaling.minReplicas` (beyond the first, where that is 0), and only for a replica that is needed itself also those."""
    engine: EngineSpec = Field(default_factory=EngineSpec)
    """Which engine, and what to pass on to it."""
    parallelism: Parallelism | None = None
    """Degrees set by hand; the planner computes those that are absent."""
    objectives: Objectives = Field(default_factory=Objectives)
    """How good the model must be, and the workload for which that holds."""
    scaling: Scaling = Field(default_factory=Scaling)
    """Between which bounds the replicas follow the load."""
    rollout: Rollout = Field(default_factory=Rollout)
    """How a new revision takes over."""


class Progress(Observed):
    """How far a starting replica is."""

    replica: str = Field(max_length=256)
    """The replica's name."""
    phase: str = Field(max_length=64)
    """Pending, Downloading, Loading, Probing or Failed."""
    bytes_done: Int = 0
    """Bytes fetched or loaded in this phase."""
    bytes_total: Int = 0
    """Bytes to fetch or load in this phase; 0 while unknown."""
    percent: Int = Field(default=0, ge=0, le=100)
    """How much of this phase is done."""
    eta_seconds: Int | None = None
    """Seconds until this phase is done, at the pace so far; absent while unknown."""


class ModelDeploymentStatus(Observed):
    """What Plinth decided and what runs."""

    observed_generation: Int = 0
    """The generation of the spec that this status is about."""
    revision: str = Field(default="", max_length=64)
    """The revision that the spec asks for."""
    answered_revision: str = Field(default="", max_length=64)
    """The newest revision that answered a real one-token request."""
    replicas: Int = 0
    """Replicas that exist, ready or not."""
    ready_replicas: Int = 0
    """Replicas that answer requests."""
    desired_replicas: Int = 0
    """Replicas that the load asks for now, within the bounds of spec.scaling."""
    selector: str = Field(default="", max_length=512)
    """Label selector of the replicas' pods, for the scale subresource."""
    pool: str = Field(default="", max_length=63)
    """The GPUPool that the model runs on."""
    engine: str = Field(default="", max_length=64)
    """The engine that was chosen."""
    shape: str = Field(default="", max_length=64)
    """Replicas times parallelism, as in `2xTP4`; stages, copies and spread experts follow, as in `1xTP4xPP2`."""
    accelerators: Int = 0
    """Accelerators that the replicas hold."""
    queued: Int = 0
    """Requests that wait in the gateway."""
    cost_per_hour: DecimalString = "0"
    """Money for the accelerators held, an hour, in the pool's currency."""
    reason: str = Field(default="", max_length=1024)
    """The reason of the condition that matters most now."""
    plan: list[Annotated[str, StringConstraints(max_length=1024)]] = Field(
        default_factory=list, max_length=32
    )
    """Why: the plan's sentences about this model."""
    predicted: Predicted | None = None
    """What the plan expects of one replica; absent while there is no shape."""
    measured: Measured | None = None
    """What the replicas of this revision measured; absent until one has."""
    places: list[ReplicaPlace] = Field(default_factory=list, max_length=64)
    """Where the replicas run: nodes and accelerators, as planned and as seen."""
    progress: list[Progress] = Field(default_factory=list, max_length=16)
    """The replicas that are starting."""
    conditions: Conditions = Field(default_factory=list)
    """The model's state, aspect by aspect."""

    @computed_field(description="Ready replicas of those desired, as in `1/2`.")  # type: ignore[prop-decorator]
    @property
    def ready(self) -> str:
        """Ready replicas of those desired, as in `1/2`: what `kubectl get` shows first."""
        return f"{self.ready_replicas}/{self.desired_replicas}"


class ModelDeployment(Resource):
    """A model to serve."""

    api_version: Literal["plinth.dev/v1alpha1"] = API_VERSION
    """The version of this API."""
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    """The kind of this resource."""
    metadata: ObjectMeta
    """Name, namespace and labels."""
    spec: ModelDeploymentSpec
    """What is asked for."""
    status: ModelDeploymentStatus = Field(default_factory=ModelDeploymentStatus)
    """What was decided and what runs."""

    @property
    def key(self) -> ResourceKey:
        """What names this resource."""
        return ResourceKey(self.kind, self.metadata.namespace, self.metadata.name)
