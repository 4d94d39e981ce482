"""Nodes that a plan is to suppose where there is no fleet to look at: stated, a pool's own types, or as usually sold.

`2x8xH200` are two nodes of eight H200 each, `2x16xCPU:64Gi` two of sixteen cores and 64 GiB. The planner sees them as
nodes that are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from plinth.api.v1alpha1 import GPUPool, ObjectMeta
from plinth.api.v1alpha1.gpupool import GPUPoolSpec
from plinth.domain.accelerators.catalogue import CATALOGUE, find_accelerator
from plinth.domain.fleet import Node
from plinth.domain.kube_quantities import parse_units
from plinth.domain.node_types import NodeType, node_types
from plinth.domain.pools import AUTO, CPU
from plinth.domain.quantities import MIB, plural

EXAMPLE = "2x8xH200"
CPU_EXAMPLE = "2x16xCPU:64Gi"
_STATED = re.compile(
    r"(?:(?P<pool>[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)=)?"
    r"(?P<nodes>[1-9][0-9]{0,3})x(?P<each>[1-9][0-9]{0,3})x(?P<kind>[A-Za-z][-_.A-Za-z0-9]{0,62})"
    r"(?::(?P<memory>[1-9][0-9]{0,8}[MGT]i))?"
)
_CORES_AN_ACCELERATOR = 16
"""Of usual machines; nothing on accelerators is planned by them."""


@dataclass(frozen=True, kw_only=True)
class StatedNodes:
    """Nodes that are alike, as somebody states them."""

    nodes: int
    each: int
    """Accelerators of each node; of a CPU node, cores."""
    kind: str
    memory_bytes: int = 0
    """Of one accelerator, of a whole CPU node; 0: what the catalogue says."""
    pool: str = ""
    """The GPUPool that they belong to; empty: the one that takes this kind."""


@dataclass(frozen=True, kw_only=True)
class SupposedFleet:
    """What the plan is made for."""

    pools: tuple[GPUPool, ...]
    nodes: tuple[Node, ...]
    notes: tuple[str, ...]
    """What was supposed without having been stated."""


def parse_nodes(text: str) -> StatedNodes:
    """`[POOL=]NODESxACCELERATORSxKIND[:MEMORY]`. Raises ValueError."""
    found = _STATED.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} must be [POOL=]NODESxACCELERATORSxKIND[:MEMORY], as in {EXAMPLE} or {CPU_EXAMPLE}"
        )
    kind = CPU if found["kind"].upper() == CPU else found["kind"]
    if kind == CPU and not found["memory"]:
        raise ValueError(f"{text!r} must say how much memory a node has, as in {CPU_EXAMPLE}")
    return StatedNodes(
        nodes=int(found["nodes"]),
        each=int(found["each"]),
        kind=kind,
        memory_bytes=parse_units(found["memory"]) if found["memory"] else 0,
        pool=found["pool"] or "",
    )


def suppose_fleet(pools: Sequence[GPUPool], stated: Iterable[StatedNodes]) -> SupposedFleet:
    """The pools, each with its nodes; without any, one for each kind that is stated. Raises ValueError."""
    by_name = {pool.metadata.name: pool for pool in pools}
    asked: dict[str, list[StatedNodes]] = {}
    for each in stated:
        pool = _pool_for(each, pools) if pools else _new_pool(each)
        by_name.setdefault(pool.metadata.name, pool)
        asked.setdefault(pool.metadata.name, []).append(each)
    if not by_name:
        raise ValueError(f"there is no GPUPool; state what there is, as in --nodes {EXAMPLE}")
    nodes: list[Node] = []
    notes: list[str] = []
    for name, pool in sorted(by_name.items()):
        found, note = _nodes_of(pool, asked.get(name, []))
        nodes += found
        notes += [note] if note else []
    return SupposedFleet(
        pools=tuple(pool for _, pool in sorted(by_name.items())), nodes=tuple(nodes), notes=tuple(notes)
    )


def _pool_for(stated: StatedNodes, pools: Sequence[GPUPool]) -> GPUPool:
    """The pool that the nodes are meant for, or the only one that takes their kind."""
    names = ", ".join(pool.metadata.name for pool in pools)
    able = [pool for pool in pools if stated.pool in {"", pool.metadata.name}]
    if not able:
        raise ValueError(f"there is no GPUPool {stated.pool}; there is {names}")
    taking = [pool for pool in able if _takes(pool, stated)]
    if len(taking) == 1:
        return taking[0]
    if not taking:
        whose = ", ".join(f"{pool.metadata.name} is of {pool.spec.accelerator}" for pool in able)
        raise ValueError(f"no GPUPool takes {stated.kind}: {whose}")
    first = taking[0].metadata.name
    raise ValueError(f"several GPUPools take {stated.kind}; name one, as in --nodes {first}={EXAMPLE}")


def _takes(pool: GPUPool, stated: StatedNodes) -> bool:
    kind = pool.spec.accelerator
    if kind in {AUTO, stated.kind}:
        return True
    product = find_accelerator(stated.kind, stated.memory_bytes)
    return product is not None and find_accelerator(kind, product.memory_bytes) is product


def _new_pool(stated: StatedNodes) -> GPUPool:
    if find_accelerator(stated.kind) is None and not stated.memory_bytes:
        known = ", ".join(each.name for each in CATALOGUE)
        raise ValueError(
            f"{stated.kind} is none of {known}; say how much memory it has,"
            f" as in --nodes {stated.nodes}x{stated.each}x{stated.kind}:80Gi"
        )
    name = stated.pool or re.sub(r"[^a-z0-9]+", "-", stated.kind.lower()).strip("-")
    return GPUPool(metadata=ObjectMeta(name=name), spec=GPUPoolSpec(accelerator=stated.kind))


def _nodes_of(pool: GPUPool, stated: Iterable[StatedNodes]) -> tuple[list[Node], str]:
    """The pool's nodes, and what was supposed of them."""
    sizes = [(each.nodes, _stated_node(pool, each)) for each in stated]
    if sizes:
        return _numbered(pool, sizes), ""
    if pool.spec.node_types:
        types = node_types(pool, ())
        return _numbered(pool, [(each.most or 1, _typed_node(each)) for each in types]), ""
    return _usual_nodes(pool)


def _usual_nodes(pool: GPUPool) -> tuple[list[Node], str]:
    name, kind = pool.metadata.name, pool.spec.accelerator
    product = find_accelerator(kind)
    if product is None or kind == CPU:
        example = CPU_EXAMPLE if kind == CPU else EXAMPLE
        return [], f"pool {name}: nothing says which nodes it has; state them, as in --nodes {name}={example}"
    usual = StatedNodes(nodes=pool.spec.workers.max or 1, each=product.link.domain_size, kind=kind, pool=name)
    which = f"{plural(usual.nodes, 'node')} of {usual.each} x {product.name}"
    note = f"pool {name}: {which} supposed; state others with --nodes {name}={EXAMPLE}"
    return _numbered(pool, [(usual.nodes, _stated_node(pool, usual))]), note


def _stated_node(pool: GPUPool, stated: StatedNodes) -> Node:
    if stated.kind == CPU:
        return _node(CPU, cpus=stated.each, memory_bytes=stated.memory_bytes)
    product = find_accelerator(stated.kind, stated.memory_bytes)
    memory = stated.memory_bytes or (product.memory_bytes if product else 0)
    kind = stated.kind if pool.spec.accelerator == AUTO else pool.spec.accelerator
    return _node(
        kind,
        cpus=stated.each * _CORES_AN_ACCELERATOR,
        memory_bytes=stated.each * memory,
        accelerators=stated.each,
        accelerator_memory_bytes=memory,
    )


def _typed_node(kind: NodeType) -> Node:
    return _node(
        kind.accelerator,
        cpus=kind.ray_cpus,
        memory_bytes=kind.ray_memory_bytes,
        accelerators=kind.accelerators,
        accelerator_memory_bytes=kind.accelerator_memory_mib * MIB,
    )


def _node(
    kind: str, *, cpus: int, memory_bytes: int, accelerators: int = 0, accelerator_memory_bytes: int = 0
) -> Node:
    return Node(
        node_id="",
        address="",
        labels={},
        cpus=cpus,
        memory_bytes=memory_bytes,
        accelerator=kind,
        accelerators=accelerators,
        accelerator_memory_bytes=accelerator_memory_bytes,
    )


def _numbered(pool: GPUPool, sizes: Iterable[tuple[int, Node]]) -> list[Node]:
    alike = [node for count, node in sizes for _ in range(count)]
    name = pool.metadata.name
    return [replace(node, node_id=f"{name}-{number:04d}", pool=name) for number, node in enumerate(alike, 1)]
