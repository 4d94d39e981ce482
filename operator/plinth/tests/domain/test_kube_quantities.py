"""Kubernetes' quantities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.kube_quantities import format_cpus, format_memory, parse_thousandths, parse_units
from plinth.domain.quantities import MIB


@pytest.mark.parametrize(
    ("text", "units"),
    [("16Gi", 16 * 2**30), ("65536Ki", 2**26), ("1k", 1000), ("3", 3), ("1e3", 1000), ("1.5Gi", 3 * 2**29)],
)
def test_sizes_are_read(text: str, units: int) -> None:
    assert parse_units(text) == units


@pytest.mark.parametrize(("text", "thousandths"), [("3920m", 3920), ("0.5", 500), ("2", 2000), ("100u", 0)])
def test_cpus_are_read(text: str, thousandths: int) -> None:
    assert parse_thousandths(text) == thousandths


def test_what_is_no_quantity_is_refused_with_examples() -> None:
    with pytest.raises(ValueError, match="'lots' is no quantity; 1500m, 2 or 16Gi would be"):
        parse_units("lots")


@given(st.integers(min_value=1, max_value=2**24))
def test_memory_is_read_back_as_it_was_written(mebibytes: int) -> None:
    assert parse_units(format_memory(mebibytes * MIB)) == mebibytes * MIB


@given(st.integers(min_value=1, max_value=10**6))
def test_cpus_are_read_back_as_they_were_written(thousandths: int) -> None:
    assert parse_thousandths(format_cpus(thousandths)) == thousandths


def test_quantities_are_written_in_kubernetes_own_form() -> None:
    assert (format_memory(16 * 2**30), format_memory(1536 * MIB), format_memory(2**40)) == (
        "16Gi",
        "1536Mi",
        "1Ti",
    )
    assert (format_cpus(1500), format_cpus(2000)) == ("1500m", "2")
