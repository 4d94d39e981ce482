from typing import Any

from plinth.domain.places import FoundPlace, PlaceRefusal, find_place_in
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.quantities import GIB, GIGA, TERA
from plinth.tests.domain.builders import make_node, make_pool


def pool_of(*nodes: Any, **spec: Any) -> Pool:
    return resolve_pools((make_pool("p", **spec),), nodes)[0]


def found(pool: Pool) -> FoundPlace:
    place = find_place_in(pool)
    assert isinstance(place, FoundPlace), place
    return place


def gpus(count: int, gib: int = 24, kind: str = "L4") -> Any:
    return make_node(f"n{count}", accelerators=count, accelerator=kind, accelerator_memory_bytes=gib * GIB)


def test_the_least_memory_and_the_most_accelerators_of_all_nodes_count() -> None:
    place = found(pool_of(gpus(2, gib=22), gpus(4, gib=20))).place
    assert (place.accelerators_per_node, place.nodes, place.memory_bytes) == (4, 1, 20 * GIB)
    assert place.accelerator.name == "L4"


def test_an_accelerator_that_nobody_knows_is_taken_for_the_slowest_and_the_plan_says_so() -> None:
    answer = found(pool_of(gpus(1, kind="X1", gib=48)))
    assert answer.place.total_bytes == 48 * GIB
    assert "X1 is not in the catalogue" in answer.note
    assert found(pool_of(gpus(1))).note == ""


def test_a_pool_s_own_figures_count_more_than_the_catalogue_and_its_nodes() -> None:
    stated = {
        "name": "L4",
        "memoryMib": 40960,
        "memoryGigabytesPerSecond": 900,
        "bf16Teraflops": 300,
        "fp8Teraflops": 600,
        "link": {"kind": "NVLink", "gigabytesPerSecond": 450, "domainSize": 2},
        "networkGigabytesPerSecond": 25,
    }
    place = found(pool_of(gpus(4), acceleratorTypes=[stated, {"name": "H200", "memoryMib": 1}])).place
    known = place.accelerator
    assert place.total_bytes <= 40 * GIB
    assert place.total_bytes > 38 * GIB
    assert known.bandwidth_bytes_per_second == 900 * GIGA
    assert (known.flops.bf16, known.flops.fp8) == (300 * TERA, 600 * TERA)
    assert (known.link.kind, known.link.domain_size) == ("NVLink", 2)
    assert known.link.bytes_per_second_per_accelerator == 450 * GIGA
    assert known.node_link_bytes_per_second == 25 * GIGA


def test_an_unknown_accelerator_with_stated_figures_needs_no_note() -> None:
    stated = {"name": "X1", "memoryGigabytesPerSecond": 900, "bf16Teraflops": 300}
    assert found(pool_of(gpus(1, kind="X1"), acceleratorTypes=[stated])).note == ""


def test_memory_that_nodes_do_not_say_comes_from_the_catalogue_or_the_pool_or_is_asked_for() -> None:
    assert found(pool_of(gpus(1, gib=0))).place.total_bytes > 20 * GIB
    silent = find_place_in(pool_of(gpus(1, gib=0, kind="X1")))
    assert isinstance(silent, PlaceRefusal)
    assert "say it in the pool's spec.acceleratorTypes" in silent.message
    stated = [{"name": "X1", "memoryMib": 24576}]
    told = found(pool_of(gpus(1, gib=0, kind="X1"), acceleratorTypes=stated))
    assert told.place.total_bytes == 24 * GIB


def test_a_cpu_pool_is_its_largest_node_and_its_speed_is_not_known() -> None:
    answer = found(pool_of(make_node("a", cpus=4), make_node("b", memory_bytes=64 * GIB)))
    assert answer.place.engine_bytes == 64 * GIB * 90 // 100
    assert (answer.threads, answer.knows_speed) == (2, False)
