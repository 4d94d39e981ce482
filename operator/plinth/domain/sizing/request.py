"""What sizing is asked: a model, the place it may run in, the load it must carry and how good it must be."""

from __future__ import annotations

from dataclasses import dataclass, field

from plinth.domain.accelerators.catalogue import Accelerator
from plinth.domain.fleet import Engine
from plinth.domain.models.architecture import ModelArchitecture

FULL_SPEED_PERMILLE = 1000


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one replica may be put: nodes of one make, and how much of them an engine may use."""

    accelerator: Accelerator
    accelerators_per_node: int
    """1 on CPU nodes: the node itself."""
    nodes: int = 1
    memory_bytes: int = 0
    """Of one accelerator (of a CPU node: in all) as the node says; 0: what the catalogue says."""
    utilization_percent: int = 90
    cost_per_accelerator_hour: str = "0"
    pool: str = ""
    """Whose nodes they are, for refusals; empty: they say what the place has."""

    @property
    def total_bytes(self) -> int:
        """What a process sees of one accelerator."""
        return self.accelerator.usable_of(self.memory_bytes)

    @property
    def engine_bytes(self) -> int:
        """The engine's share of it."""
        return self.total_bytes * self.utilization_percent // 100


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one replica must hold at once, and what its requests look like."""

    concurrency: int
    input_tokens: int
    output_tokens: int
    context_tokens: int
    """The longest request that must fit."""


@dataclass(frozen=True, kw_only=True)
class Goals:
    """How good `percentile` of the requests must fare; None where nothing was asked."""

    ttft_milliseconds: int | None = None
    tpot_milliseconds: int | None = None
    percentile: int = 95


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Degrees set by hand; None is computed."""

    tensor: int | None = None
    pipeline: int | None = None
    expert: int | None = None
    data: int | None = None

    @property
    def is_anything(self) -> bool:
        """Whether any degree was set."""
        return any(each is not None for each in (self.tensor, self.pipeline, self.expert, self.data))


@dataclass(frozen=True, kw_only=True)
class AdapterRoom:
    """What vLLM makes room for beside the model: LoRA adapters of one batch."""

    slots: int
    """vLLM's `max-loras`."""
    rank: int
    """vLLM's `max-lora-rank`: each of them takes as much as one of this rank."""
    sharded: bool = False
    """vLLM's `fully-sharded-loras`."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Arguments of the engine that change memory or speed; None is the engine's own default."""

    batched_tokens: int | None = None
    """vLLM's `max-num-batched-tokens`."""
    sequences: int | None = None
    """vLLM's `max-num-seqs`."""
    kv_element_bytes: int = 2
    """1 for an FP8 cache."""
    graphs: bool = True
    """False under `enforce-eager`."""
    adapters: AdapterRoom | None = None
    front_ends: int = 1
    """Processes that copies share out among them, to take requests in and hand tokens out: one in a replica,
    one for each copy where `vllm serve` runs by itself."""


@dataclass(frozen=True, kw_only=True)
class SizingRequest:
    """One question to `choose`."""

    model: ModelArchitecture
    place: Place
    load: Load
    goals: Goals = field(default_factory=Goals)
    asked: Asked = field(default_factory=Asked)
    engine: Engine = Engine.VLLM
    options: EngineOptions = field(default_factory=EngineOptions)
    speed_permille: int = FULL_SPEED_PERMILLE
    """How fast the model was seen to run, beside what is predicted: 900 makes every step a ninth longer."""
