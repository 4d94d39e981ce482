import pytest

from plinth.domain.accelerators.catalogue import (
    CATALOGUE,
    Accelerator,
    AcceleratorOverride,
    LinkKind,
    find_accelerator,
    override_accelerator,
)
from plinth.domain.quantities import GIB, MIB

OWNED = (
    "A100",
    "H100",
    "H200",
    "B200",
    "L4",
    "L40S",
    "A10",
    "T4",
    "RTX 3090",
    "RTX 4090",
    "RTX 5090",
    "MI300X",
)


@pytest.mark.parametrize("kind", [*OWNED, "Ascend910B", "CPU"])
def test_the_accelerators_people_own_are_known(kind: str) -> None:
    assert find_accelerator(kind) is not None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("H200", "H200"),
        ("NVIDIA-H200", "H200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("GeForce-RTX-5090", "RTX-5090"),
        ("Tesla T4", "T4"),
        ("Tesla-T4", "T4"),
        ("A10G", "A10G"),
        ("NVIDIA-A800-SXM4-80GB", "A800-80GB"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX-3090-Ti"),
        ("AMD-Instinct-MI300X-OAM", "MI300X"),
        ("H100-80GB-HBM3", "H100-80GB"),
        ("A100-PCIE-80GB", "A100-PCIe"),
        ("Ascend910B", "Ascend910B"),
    ],
)
def test_a_name_of_ray_or_of_the_driver_finds_its_product(kind: str, name: str) -> None:
    found = find_accelerator(kind)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("kind", "mebibytes", "name"),
    [
        ("A100", 40_960, "A100-40GB"),
        ("A100", 81_920, "A100-80GB"),
        ("H100", 81_559, "H100-80GB"),
        ("H100", 95_830, "H100-NVL"),
    ],
)
def test_memory_tells_products_of_one_name_apart(kind: str, mebibytes: int, name: str) -> None:
    found = find_accelerator(kind, mebibytes * MIB)
    assert found is not None
    assert found.name == name


def test_an_accelerator_that_nobody_knows_is_none() -> None:
    assert find_accelerator("ABACUS-9000") is None


@pytest.mark.parametrize("found", CATALOGUE, ids=lambda each: each.name)
def test_every_entry_is_plausible_and_names_its_source(found: Accelerator) -> None:
    assert find_accelerator(found.name, found.memory_bytes) is found
    assert all(source.startswith("https://") for source in found.sources)
    assert found.sources
    assert 0.94 * found.memory_bytes <= found.usable_memory_bytes <= found.memory_bytes
    # Every one of them computes more than it can load: between 30 and 500 operations a byte.
    assert 20 < found.flops.bf16 / found.bandwidth_bytes_per_second < 500
    assert found.flops.fp8 == 0 or found.flops.fp8 == pytest.approx(2 * found.flops.bf16, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "ranks", "gigabytes"),
    [
        ("H200", 2, 450),
        ("L4", 2, 32),
        ("MI300X", 2, 64),
        ("MI300X", 4, 192),
        ("MI300X", 8, 448),
        ("Ascend910B", 2, 28),
    ],
)
def test_fewer_accelerators_than_all_have_fewer_links_where_each_link_joins_a_pair(
    kind: str, ranks: int, gigabytes: int
) -> None:
    found = find_accelerator(kind)
    assert found is not None
    assert found.link.bytes_per_second_among(ranks) == gigabytes * 10**9


def test_products_that_share_a_chip_are_told_apart_where_they_differ() -> None:
    """An A800 is an A100 with fewer links, an A10G an A10 with slower tensor units: by a name of its own each."""
    for kind, other in (("A800", "A100"), ("A10G", "A10"), ("H200-NVL", "H200"), ("RTX-3090-Ti", "RTX-3090")):
        one, another = find_accelerator(kind), find_accelerator(other)
        assert one is not None
        assert another is not None
        assert (one.flops.bf16, one.link, one.bandwidth_bytes_per_second) != (
            another.flops.bf16,
            another.link,
            another.bandwidth_bytes_per_second,
        )


def test_what_a_process_sees_of_an_h200_does_not_depend_on_who_tells_its_memory() -> None:
    h200 = find_accelerator("H200")
    assert h200 is not None
    assert h200.usable_of(143_771 * MIB) == h200.usable_memory_bytes
    assert h200.usable_of(0) == h200.usable_memory_bytes
    assert h200.usable_of(round(139.8 * GIB)) == round(139.8 * GIB)


def test_a_slice_of_an_accelerator_keeps_its_own_memory() -> None:
    h200 = find_accelerator("H200")
    assert h200 is not None
    assert h200.usable_of(18 * GIB) == 18 * GIB


def test_a_pool_may_know_its_accelerators_better() -> None:
    override = AcceleratorOverride(
        link_kind=LinkKind.NVLINK, link_domain_size=72, bf16_flops=2_500_000_000_000_000
    )
    found = override_accelerator(find_accelerator("B200"), override, kind="B200")
    assert found is not None
    assert found.link.domain_size == 72
    assert found.link.bytes_per_second_per_accelerator == 900_000_000_000
    assert found.flops.bf16 == 2_500_000_000_000_000
    assert found.flops.fp8 == 4_500_000_000_000_000


def test_a_pool_may_bring_an_accelerator_that_the_catalogue_has_not() -> None:
    override = AcceleratorOverride(
        memory_bytes=64 * GIB, bandwidth_bytes_per_second=10**12, bf16_flops=2 * 10**14
    )
    found = override_accelerator(None, override, kind="ABACUS")
    assert found is not None
    assert (found.name, found.usable_memory_bytes, found.link.kind) == ("ABACUS", 64 * GIB, LinkKind.PCIE)


def test_too_little_said_of_an_unknown_accelerator_is_none() -> None:
    assert override_accelerator(None, AcceleratorOverride(memory_bytes=GIB), kind="ABACUS") is None
