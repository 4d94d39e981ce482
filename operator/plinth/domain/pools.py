"""Which nodes belong to which pool, and how much of them engines may use; read by sizing and placement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat

from plinth.api.v1alpha1 import GPUPool, ObjectMeta
from plinth.api.v1alpha1.accelerators import AcceleratorType
from plinth.api.v1alpha1.workers import TrustRemoteCode
from plinth.domain.accelerators.catalogue import AcceleratorOverride, LinkKind
from plinth.domain.fleet import Engine, Node, NodeState
from plinth.domain.quantities import GIGA, MIB, TERA

CPU = "CPU"
AUTO = "Auto"
DEFAULT_POOL = "default"
ENGINES_LABEL = "plinth.dev/engines"
"""Node label with the engines installed there, as in `LlamaCpp.VLLM` (a label value takes no comma); without it, all
are taken to be."""


MOST_ALIKE = 16
"""Nodes of one make that a sample counts. No replica takes more: in a large pool no shape depends on who comes and goes."""
LINK_DOMAIN_LABEL = "plinth.dev/link-domain-size"
"""Node label with the number of accelerators of one link domain; without it, the kind's, else all of the node's."""
TELLING = (ENGINES_LABEL, LINK_DOMAIN_LABEL)
"""Labels that the shape of a replica depends on."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A GPUPool with the nodes that are in it now."""

    name: str
    accelerator: str
    """Kind, `CPU`, or empty while the pool has no node and its spec says Auto."""
    nodes: tuple[Node, ...]
    """Where replicas may be placed: nodes that are there, and those that could be."""
    utilization_percent: int
    cost_per_accelerator_hour: str
    retiring: tuple[Node, ...] = ()
    """Nodes that are being emptied."""
    namespace: str = ""
    """The one namespace that it serves; empty: all."""
    deleted: bool = False
    min_workers: int = 0
    idle_seconds: int = 0
    """How long a worker that holds nothing stays."""
    trusts_code: bool = False
    """Whether models may bring code of their own."""
    claims: frozenset[str] = frozenset()
    """The volume claims that its replicas can read."""
    accelerator_figures: AcceleratorOverride = field(default_factory=AcceleratorOverride)
    """What its owner says of its kind of accelerator."""
    alike: tuple[int, ...] = ()
    """Of a sample: for how many nodes each of `nodes` stands, up to MOST_ALIKE. Empty: each for itself."""

    @cached_property
    def node_ids(self) -> frozenset[str]:
        """All its nodes, those that are being emptied included."""
        return frozenset(node.node_id for node in (*self.nodes, *self.retiring))

    @cached_property
    def sample(self) -> Pool:
        """The pool with one nameless node of each make: all that the shape of a replica may depend on."""
        found = [(_make_of(node), node) for node in reversed(self.nodes)]
        makes = dict(found)
        counts = Counter(make for make, node in found if node.accelerators)
        alike = tuple(min(counts.get(make, 1), MOST_ALIKE) for make in makes)
        return replace(self, nodes=tuple(map(_nameless, makes.values())), retiring=(), alike=alike)

    @property
    def present(self) -> tuple[Node, ...]:
        """The nodes that are there."""
        return tuple(node for node in self.nodes if node.state is NodeState.PRESENT)

    def serves(self, namespace: str) -> bool:
        """Whether models of the namespace may run here."""
        return self.namespace in {"", namespace}

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

    def count_nodes(self, engine: Engine | None, accelerators: int) -> int:
        """How many nodes with so many accelerators have the engine; without one, have whatever."""
        return sum(
            alike
            for node, alike in zip(self.nodes, self.alike or repeat(1), strict=False)
            if node.accelerators == accelerators and (engine is None or has_engine(node, engine))
        )

    def nodes_for(self, engine: Engine) -> tuple[Node, ...]:
        """The nodes that have this engine."""
        return self._nodes_by_engine[engine]

    @cached_property
    def _nodes_by_engine(self) -> Mapping[Engine, tuple[Node, ...]]:
        return {engine: tuple(node for node in self.nodes if has_engine(node, engine)) for engine in Engine}


def _make_of(node: Node) -> tuple[object, ...]:
    """What nodes of one make have in common."""
    return (
        *(node.cpus, node.memory_bytes, *map(node.labels.get, TELLING)),
        *(node.accelerator, node.accelerators, node.accelerator_memory_bytes),
    )


def _nameless(node: Node) -> Node:
    """The node without all that tells it from others of its make."""
    return Node(
        node_id="",
        address="",
        labels={name: node.labels[name] for name in TELLING if name in node.labels},
        cpus=node.cpus,
        memory_bytes=node.memory_bytes,
        accelerator=node.accelerator,
        accelerators=node.accelerators,
        accelerator_memory_bytes=node.accelerator_memory_bytes,
    )


def has_engine(node: Node, engine: Engine) -> bool:
    """Whether the node has the engine, as far as its label says."""
    label = node.labels.get(ENGINES_LABEL)
    return label is None or engine in label.split(".")


def stated_link_domain(node: Node) -> int:
    """How many accelerators of one link domain the node's label states; 0 without one."""
    label = node.labels.get(LINK_DOMAIN_LABEL, "")
    return int(label) if label.isdecimal() else 0


def resolve_pools(pools: Iterable[GPUPool], nodes: Iterable[Node]) -> tuple[Pool, ...]:
    """Every pool with its nodes, by name. Without any GPUPool, one named `default` takes all nodes."""
    given = sorted(pools, key=lambda pool: pool.metadata.name) or [
        GPUPool(metadata=ObjectMeta(name=DEFAULT_POOL))
    ]
    in_order = sorted(nodes, key=lambda node: node.node_id)
    brought_up: dict[str, list[Node]] = {}
    for node in in_order:
        brought_up.setdefault(node.pool, []).append(node)
    loose = brought_up.pop("", [])
    return tuple(_resolve(pool, loose, brought_up.get(pool.metadata.name, [])) for pool in given)


def _resolve(pool: GPUPool, loose: list[Node], own: list[Node]) -> Pool:
    """`own` were brought up for the pool; of the `loose` ones it has those that its selector selects."""
    selector = pool.spec.node_selector.items()
    selected = own + [node for node in loose if all(node.labels.get(key) == value for key, value in selector)]
    kind = pool.spec.accelerator
    if kind == AUTO:
        kind = _commonest_kind(selected)
    # A CPU pool takes accelerated nodes too: their host memory and cores are as good as any.
    members = [node for node in selected if kind in {CPU, node.accelerator}]
    return Pool(
        name=pool.metadata.name,
        accelerator=kind,
        nodes=tuple(node for node in members if node.state is not NodeState.RETIRING),
        utilization_percent=pool.spec.memory_utilization_percent,
        cost_per_accelerator_hour=pool.spec.cost_per_accelerator_hour,
        retiring=tuple(node for node in members if node.state is NodeState.RETIRING),
        namespace=pool.spec.namespace or "",
        deleted=bool(pool.metadata.deletion_timestamp),
        min_workers=pool.spec.workers.min,
        idle_seconds=pool.spec.workers.idle_seconds,
        trusts_code=pool.spec.trust_remote_code is TrustRemoteCode.ALLOWED,
        claims=frozenset(volume.claim for volume in pool.spec.volumes),
        accelerator_figures=_figures_of(kind, pool.spec.accelerator_types),
    )


def _figures_of(kind: str, types: Iterable[AcceleratorType]) -> AcceleratorOverride:
    """The figures stated for this kind."""
    stated = next((each for each in types if each.name == kind), None)
    if stated is None:
        return AcceleratorOverride()

    def times(count: int | None, unit: int) -> int | None:
        return None if count is None else count * unit

    return AcceleratorOverride(
        memory_bytes=times(stated.memory_mib, MIB),
        bandwidth_bytes_per_second=times(stated.memory_gigabytes_per_second, GIGA),
        bf16_flops=times(stated.bf16_teraflops, TERA),
        fp8_flops=times(stated.fp8_teraflops, TERA),
        link_kind=LinkKind(stated.link.kind.value) if stated.link.kind else None,
        link_bytes_per_second=times(stated.link.gigabytes_per_second, GIGA),
        link_domain_size=stated.link.domain_size,
        node_link_bytes_per_second=times(stated.network_gigabytes_per_second, GIGA),
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
