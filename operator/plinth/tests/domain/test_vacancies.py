"""How many more replicas pools have room for, as models choose one after the other."""

from __future__ import annotations

from plinth.domain.fleet import Needs, Slot
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.quantities import GIB
from plinth.domain.vacancies import Vacancies
from plinth.tests.domain.builders import make_node, make_pool, make_slot


def gpus(count: int, nodes: int = 1) -> Needs:
    return Needs(accelerators=count, memory_bytes=0, nodes=nodes)


def pool_of(*accelerators: int) -> Pool:
    nodes = [make_node(f"n{number}", accelerators=each) for number, each in enumerate(accelerators)]
    return resolve_pools([make_pool("p")], nodes)[0]


def slot(node: str, accelerators: int) -> Slot:
    return make_slot(node_id=node, accelerators=accelerators)


def test_whole_replicas_count_node_by_node() -> None:
    found = Vacancies([slot("n0", 3)])
    assert found.count(pool_of(8, 8), gpus(4)) == 3
    assert found.count(pool_of(8, 8), gpus(8)) == 1
    assert found.count(pool_of(8, 8), gpus(16)) == 0


def test_a_replica_of_several_nodes_needs_as_many_with_so_much_free() -> None:
    assert Vacancies([slot("n0", 1)]).count(pool_of(8, 8, 8, 8), gpus(8, nodes=2)) == 1


def test_what_is_taken_is_gone_from_the_smallest_gaps_first_whenever_it_was_asked_about() -> None:
    pool = pool_of(8, 2)
    asked, unasked = Vacancies([]), Vacancies([])
    assert asked.count(pool, gpus(2)) == 5
    for each in (asked, unasked):
        each.take(pool, gpus(2), 1)
        assert each.count(pool, gpus(8)) == 1
        assert each.count(pool, gpus(2)) == 4


def test_more_than_there_is_takes_all_that_fits() -> None:
    found, pool = Vacancies([]), pool_of(8)
    found.take(pool, gpus(3), 5)
    assert found.count(pool, gpus(3)) == 0
    assert found.count(pool, gpus(2)) == 1


def test_memory_of_cpu_nodes_counts_apart_from_accelerators() -> None:
    pool = resolve_pools([make_pool("p")], [make_node("n0", memory_bytes=10 * GIB)])[0]
    need = Needs(accelerators=0, memory_bytes=4 * GIB)
    assert Vacancies([]).count(pool, need) == 2
    assert Vacancies([slot("n0", 2)]).count(pool, need) == 2
    assert Vacancies([make_slot(node_id="n0", memory_bytes=2 * GIB)]).count(pool, need) == 1
