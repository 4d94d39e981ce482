"""Which kinds of Ray worker a pool can have: said in its spec, or found from the Kubernetes nodes it selects.

A type is a worker group of the pool's RayCluster. All that its pods are made of is in the group's name as a digest, so
a group never changes: nodes that come and go leave it as it is, and another size is another group.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from plinth.api.v1alpha1 import GPUPool
from plinth.api.v1alpha1.workers import NodeType as SpecifiedType
from plinth.api.v1alpha1.workers import Toleration
from plinth.domain.kube_quantities import parse_units
from plinth.domain.pools import AUTO, CPU
from plinth.domain.quantities import GIB, MIB

ACCELERATED_SHARE_PERCENT = 80
"""What a worker takes of its node's allocatable CPU and memory beside all of the accelerators. Nothing else needs the
machine, but DaemonSets (device plugin, network, logs) come and go, and a worker that leaves them no room is never
scheduled, or keeps them out."""
CPU_SHARE_PERCENT = 50
"""On nodes without accelerators anything may run, Ray's heads and Plinth itself among it."""
RAY_PROCESSES_BYTES = GIB
"""What Ray's own processes in a worker take of its memory (raylet, agents, an idle process); not Ray's to hand out."""

ACCELERATOR_LABEL = "plinth.dev/accelerator"
ACCELERATOR_MEMORY_LABEL = "plinth.dev/accelerator-memory-mib"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
PRODUCT_LABEL = "nvidia.com/gpu.product"
PRODUCT_MEMORY_LABEL = "nvidia.com/gpu.memory"
ACCELERATOR_RESOURCE = "nvidia.com/gpu"
PASSING_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Taints that Kubernetes sets by a node's state: they say whether it can be used now, not what it is for."""
DIGEST_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Taint:
    """What keeps pods from a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class KubeNode:
    """A Kubernetes node, as far as workers depend on it."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    cpu_thousandths: int
    """Allocatable, as are the next two."""
    memory_bytes: int
    accelerators: int = 0
    ready: bool = True
    cordoned: bool = False

    @property
    def accelerator(self) -> str:
        """Kind, as Ray and the pools name it: `H200` of the product `NVIDIA-H200`."""
        kind = self.labels.get(ACCELERATOR_LABEL) or self.labels.get(PRODUCT_LABEL, "").removeprefix(
            "NVIDIA-"
        )
        return kind or ("GPU" if self.accelerators else CPU)

    @property
    def accelerator_memory_mib(self) -> int:
        """Memory of one accelerator; 0 where no label tells."""
        text = self.labels.get(ACCELERATOR_MEMORY_LABEL) or self.labels.get(PRODUCT_MEMORY_LABEL) or ""
        return int(text) if text.isdigit() else 0


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """Workers that are alike."""

    name: str
    """The worker group's name."""
    accelerator: str
    accelerators: int
    accelerator_memory_mib: int
    cpu_thousandths: int
    memory_bytes: int
    """What the worker's container requests and is limited to."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    """At most one worker of the type on a node."""
    most: int | None = None
    """Workers at most; None: as many as there are nodes for."""
    nodes: tuple[str, ...] = ()
    """The nodes of a found type that can be used now."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the nodes of a found type have in common."""

    @property
    def ray_cpus(self) -> int:
        """CPUs that Ray is told of: engines on CPUs compute with that many threads."""
        return max(1, self.cpu_thousandths // 1000)

    @property
    def ray_memory_bytes(self) -> int:
        """Memory that Ray hands out to replicas."""
        return max(MIB, self.memory_bytes - RAY_PROCESSES_BYTES)

    @property
    def ray_labels(self) -> dict[str, str]:
        """What tells Ray, and so the planner, of the accelerators."""
        if not self.accelerators:
            return {}
        return {
            ACCELERATOR_LABEL: self.accelerator,
            ACCELERATOR_MEMORY_LABEL: str(self.accelerator_memory_mib),
        }


def node_types(pool: GPUPool, nodes: Iterable[KubeNode]) -> tuple[NodeType, ...]:
    """The pool's types, by name."""
    if pool.spec.node_types:
        specified = [_specified(each, pool) for each in pool.spec.node_types]
        return tuple(sorted(specified, key=lambda each: each.name))
    return _found(pool, [node for node in nodes if selects(pool, node)])


def selects(pool: GPUPool, node: KubeNode) -> bool:
    """Whether the node is meant for the pool: by its labels, and by taints that say what a node is for."""
    wanted = pool.spec.node_selector.items()
    lasting = [taint for taint in node.taints if not taint.key.startswith(PASSING_TAINTS)]
    return all(node.labels.get(key) == value for key, value in wanted) and _tolerates(pool, node, lasting)


def is_usable(pool: GPUPool, node: KubeNode) -> bool:
    """Whether a new worker could be put on the node now."""
    return node.ready and not node.cordoned and _tolerates(pool, node, node.taints)


def _tolerates(pool: GPUPool, node: KubeNode, taints: Sequence[Taint]) -> bool:
    repelling = [taint for taint in taints if taint.effect in {"NoSchedule", "NoExecute"}]
    if node.accelerators:
        repelling = [taint for taint in repelling if taint.key != ACCELERATOR_RESOURCE]
    return all(
        any(_accepts(toleration, taint) for toleration in pool.spec.workers.tolerations)
        for taint in repelling
    )


def _accepts(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in {None, taint.effect}:
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    same_value = toleration.operator == "Exists" or (toleration.value or "") == taint.value
    return toleration.key == taint.key and same_value


def _specified(given: SpecifiedType, pool: GPUPool) -> NodeType:
    kind = pool.spec.accelerator
    unnamed = given.node_selector.get(PRODUCT_LABEL, "").removeprefix("NVIDIA-") or "GPU"
    return _named(
        given.name,
        NodeType(
            name="",
            accelerator=(unnamed if kind in {AUTO, CPU} else kind) if given.accelerators else CPU,
            accelerators=given.accelerators,
            accelerator_memory_mib=given.accelerator_memory_mib,
            cpu_thousandths=given.cpus * 1000,
            memory_bytes=parse_units(given.memory),
            node_selector={**pool.spec.node_selector, **given.node_selector},
            most=given.max,
        ),
    )


@dataclass(frozen=True)
class _Shape:
    """What a worker on a node would be, told from nothing but this node."""

    accelerator: str
    accelerators: int
    accelerator_memory_mib: int
    cpu_thousandths: int
    memory_bytes: int
    telling: tuple[tuple[str, str], ...]
    """Labels that tell such nodes from others."""

    @classmethod
    def of(cls, node: KubeNode) -> _Shape:
        share = ACCELERATED_SHARE_PERCENT if node.accelerators else CPU_SHARE_PERCENT
        telling = (INSTANCE_TYPE_LABEL, PRODUCT_LABEL) if node.accelerators else (INSTANCE_TYPE_LABEL,)
        return cls(
            accelerator=node.accelerator,
            accelerators=node.accelerators,
            accelerator_memory_mib=node.accelerator_memory_mib,
            cpu_thousandths=_rounded(node.cpu_thousandths * share // 100, 100),
            memory_bytes=_rounded(node.memory_bytes * share // 100, 64 * MIB),
            telling=tuple((key, node.labels[key]) for key in telling if key in node.labels),
        )


def _found(pool: GPUPool, nodes: list[KubeNode]) -> tuple[NodeType, ...]:
    kind = _kind(pool, nodes)
    members: dict[_Shape, list[KubeNode]] = {}
    for node in sorted(nodes, key=lambda each: each.name):
        # A node that has lost its device plugin for a moment shows no accelerators; it is still of its kind.
        if node.accelerator == kind and (kind == CPU or node.accelerators):
            members.setdefault(_Shape.of(node), []).append(node)
    found = [_type_of(pool, shape, alike) for shape, alike in members.items()]
    return tuple(sorted(found, key=lambda each: each.name))


def _kind(pool: GPUPool, nodes: Iterable[KubeNode]) -> str:
    """The pool's kind; for Auto what the nodes have most of, as `pools` decides it. Ties go to the first by name."""
    if pool.spec.accelerator != AUTO:
        return pool.spec.accelerator
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.accelerator] += node.accelerators
    return min(((-count, kind) for kind, count in counts.items() if count), default=(0, CPU))[1]


def _type_of(pool: GPUPool, shape: _Shape, nodes: list[KubeNode]) -> NodeType:
    shared = set(nodes[0].labels.items()).intersection(*(node.labels.items() for node in nodes))
    kind = NodeType(
        name="",
        accelerator=shape.accelerator,
        accelerators=shape.accelerators,
        accelerator_memory_mib=shape.accelerator_memory_mib,
        cpu_thousandths=shape.cpu_thousandths,
        memory_bytes=shape.memory_bytes,
        node_selector={**pool.spec.node_selector, **dict(shape.telling)},
        alone=True,
        nodes=tuple(node.name for node in nodes if is_usable(pool, node)),
        labels=dict(sorted(shared)),
    )
    return _named(f"{shape.accelerator}-x{shape.accelerators}" if shape.accelerators else CPU, kind)


def _rounded(amount: int, unit: int) -> int:
    """Down to five binary digits: nodes of one kind differ by a little, their workers should not. 255 becomes 248."""
    units = max(1, amount // unit)
    step = 1 << max(0, units.bit_length() - 5)
    return units // step * step * unit


def _named(slug: str, shape: NodeType) -> NodeType:
    """The type with a name of its own: readable, and ending in a digest of all that makes its pods."""
    # What is empty is left out, so that a field added in a later version renames no group by itself.
    made_of = {
        key: value
        for key, value in asdict(shape).items()
        if value and key not in {"name", "most", "nodes", "labels"}
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]
    readable = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:40].rstrip("-")
    return replace(shape, name=f"{readable}-{digest}")
