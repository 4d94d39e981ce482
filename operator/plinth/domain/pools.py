"""Which nodes belong to which pool, and how much of them engines may use; read by shapes and placement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from plinth.api.v1alpha1 import GPUPool, ObjectMeta
from plinth.domain.fleet import Engine, Node

CPU = "CPU"
AUTO = "Auto"
DEFAULT_POOL = "default"
ENGINES_LABEL = "plinth.dev/engines"
"""Node label with the engines installed there, as in `LlamaCpp.VLLM` (a label value takes no comma); without it, all
are taken to be."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A GPUPool with the nodes that are in it now."""

    name: str
    accelerator: str
    """Kind, `CPU`, or empty while the pool has no node and its spec says Auto."""
    nodes: tuple[Node, ...]
    utilization_percent: int
    cost_per_accelerator_hour: str

    @property
    def is_cpu(self) -> bool:
        """Whether replicas here compute on CPUs."""
        return self.accelerator == CPU

    def usable_memory_bytes(self, node: Node) -> int:
        """Host memory of a node that replicas may use (CPU pools count it, others count accelerators)."""
        return node.memory_bytes * self.utilization_percent // 100

    def usable_accelerator_bytes(self, node: Node) -> int:
        """Memory of one of the node's accelerators that an engine may use."""
        return node.accelerator_memory_bytes * self.utilization_percent // 100

    def nodes_for(self, engine: Engine) -> tuple[Node, ...]:
        """The nodes that have this engine."""
        return tuple(node for node in self.nodes if has_engine(node, engine))


def has_engine(node: Node, engine: Engine) -> bool:
    """Whether the node has the engine, as far as its label says."""
    label = node.labels.get(ENGINES_LABEL)
    return label is None or engine in label.split(".")


def resolve_pools(pools: Iterable[GPUPool], nodes: Iterable[Node]) -> tuple[Pool, ...]:
    """Every pool with its nodes, by name. Without any GPUPool, one named `default` takes all nodes."""
    given = sorted(pools, key=lambda pool: pool.metadata.name) or [
        GPUPool(metadata=ObjectMeta(name=DEFAULT_POOL))
    ]
    in_order = sorted(nodes, key=lambda node: node.node_id)
    return tuple(_resolve(pool, in_order) for pool in given)


def _resolve(pool: GPUPool, nodes: list[Node]) -> Pool:
    selector = pool.spec.node_selector.items()
    selected = [node for node in nodes if all(node.labels.get(key) == value for key, value in selector)]
    kind = pool.spec.accelerator
    if kind == AUTO:
        kind = _commonest_kind(selected)
    # A CPU pool takes accelerated nodes too: their host memory and cores are as good as any.
    members = [node for node in selected if kind in {CPU, node.accelerator}]
    return Pool(
        name=pool.metadata.name,
        accelerator=kind,
        nodes=tuple(members),
        utilization_percent=pool.spec.memory_utilization_percent,
        cost_per_accelerator_hour=pool.spec.cost_per_accelerator_hour,
    )


def _commonest_kind(nodes: list[Node]) -> str:
    """The accelerator that the nodes have most of; CPU only where none has any. Ties go to the first by name."""
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.accelerator] += node.accelerators
    accelerated = [(-count, kind) for kind, count in counts.items() if count > 0]
    if accelerated:
        return min(accelerated)[1]
    return CPU if nodes else ""
