"""Where one replica may stand, as sizing wants it: a pool's accelerator with its figures, and how many a node has.

A pool may hold nodes of several makes. A replica must fit whichever of them it comes to, so the least memory counts;
it goes where enough accelerators are, so the most accelerators count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plinth.domain.accelerators.catalogue import (
    CATALOGUE,
    CPU,
    Accelerator,
    AcceleratorOverride,
    Flops,
    LinkKind,
    find_accelerator,
    override_accelerator,
)
from plinth.domain.fleet import Engine, Node
from plinth.domain.pools import Pool, stated_link_domain
from plinth.domain.quantities import GIGA, TERA
from plinth.domain.sizing.request import Place

FIELD = "spec.acceleratorTypes"


@dataclass(frozen=True, kw_only=True)
class FoundPlace:
    """A place, and what should be known of its figures."""

    place: Place
    note: str = ""
    knows_speed: bool = True
    """Whether its speed is that of its hardware: the catalogue has one processor for all, unless the pool states it."""
    threads: int = 0
    """For computing on a CPU: one a physical core, as llama.cpp itself counts; 0 on accelerators.

    By the smallest node and not by the number of replicas, or a change of scale would be a new revision.
    """


@dataclass(frozen=True, kw_only=True)
class PlaceRefusal:
    """Why nothing can be computed for the pool."""

    message: str


def find_place_in(pool: Pool, engine: Engine | None = None) -> FoundPlace | PlaceRefusal:
    """The place that the pool's nodes are to one replica: one node, or several of those with most accelerators.

    Without an engine, its nodes count whatever they have installed.
    """
    kind, own = pool.accelerator, pool.accelerator_figures
    if pool.is_cpu:
        return _cpus(pool, _nodes(pool, engine))
    told = min((node.accelerator_memory_bytes for node in pool.nodes), default=0)
    memory = own.memory_bytes or told
    known = find_accelerator(kind, memory)
    if known is None and not memory:
        message = (
            f"the nodes of pool {pool.name} do not say how much memory they have, and {kind} is not in the"
            f" catalogue; say it in the pool's {FIELD}"
        )
        return PlaceRefusal(message=message)
    base = known or _assume(kind, memory)
    linked = _widest_link_domain(_nodes(pool, engine), own.link_domain_size or base.link.domain_size)
    per_node = max((node.accelerators for node in _nodes(pool, engine)), default=0)
    place = _make_place(
        pool,
        override_accelerator(base, replace(own, link_domain_size=linked), kind=kind) or base,
        per_node=per_node,
        nodes=pool.count_nodes(engine, per_node),
        memory_bytes=0 if own.memory_bytes else told,
    )
    return FoundPlace(place=place, note="" if known else _note(base, own))


def _widest_link_domain(nodes: tuple[Node, ...], usual: int) -> int:
    """The widest that a node has, by its label or else as is usual for its kind."""
    return max((stated_link_domain(node) or usual for node in nodes), default=usual)


def _cpus(pool: Pool, nodes: tuple[Node, ...]) -> FoundPlace:
    own = pool.accelerator_figures
    cpu = override_accelerator(_CPU, replace(own, memory_bytes=None), kind=CPU) or _CPU
    memory = max((node.memory_bytes for node in nodes), default=0)
    return FoundPlace(
        place=_make_place(pool, cpu, per_node=1, memory_bytes=memory),
        knows_speed=bool(own.bandwidth_bytes_per_second and own.bf16_flops),
        threads=max(1, min((node.cpus for node in nodes), default=1) // 2),
    )


def _nodes(pool: Pool, engine: Engine | None) -> tuple[Node, ...]:
    return pool.nodes if engine is None else pool.nodes_for(engine)


def _make_place(
    pool: Pool, accelerator: Accelerator, *, per_node: int, memory_bytes: int, nodes: int = 1
) -> Place:
    return Place(
        accelerator=accelerator,
        accelerators_per_node=per_node,
        nodes=max(1, nodes),
        memory_bytes=memory_bytes,
        utilization_percent=pool.utilization_percent,
        cost_per_accelerator_hour=pool.cost_per_accelerator_hour,
        pool=pool.name,
    )


def _assume(kind: str, memory_bytes: int) -> Accelerator:
    """One that the catalogue has not: each figure is that of the slowest there, links are PCIe's."""
    return Accelerator(
        name=kind,
        memory_bytes=memory_bytes,
        usable_memory_bytes=memory_bytes,
        bandwidth_bytes_per_second=min(each.bandwidth_bytes_per_second for each in _GPUS),
        flops=Flops(bf16=min(each.flops.bf16 for each in _GPUS)),
        link=min(
            (each.link for each in _GPUS if each.link.kind is LinkKind.PCIE),
            key=lambda link: link.bytes_per_second_per_accelerator,
        ),
        node_link_bytes_per_second=min(each.node_link_bytes_per_second for each in _GPUS),
        sources=("the slowest of the catalogue",),
    )


def _note(assumed: Accelerator, own: AcceleratorOverride) -> str:
    """What is assumed and not stated; empty where the pool's owner stated what matters most."""
    if own.bandwidth_bytes_per_second and own.bf16_flops:
        return ""
    bandwidth, flops = assumed.bandwidth_bytes_per_second // GIGA, assumed.flops.bf16 // TERA
    return (
        f"{assumed.name} is not in the catalogue: what the pool's {FIELD} does not state is taken from the slowest"
        f" there ({bandwidth} GB/s, {flops} TFLOPS)"
    )


_CPU = next(each for each in CATALOGUE if each.name == CPU)
_GPUS = tuple(each for each in CATALOGUE if each.name != CPU)
