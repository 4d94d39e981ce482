"""The plan beside the exact answer, on 500 small fleets."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest

from plinth.tests.domain.placing.comparison import compare

FLEETS = 500


@pytest.fixture
def exact() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OR-Tools' bindings, as they are loaded
        pytest.importorskip("ortools.sat.python.cp_model")
    return importlib.import_module("plinth.tests.domain.placing.exact")


def test_plans_stay_within_two_percent_of_the_optimum(exact: ModuleType) -> None:
    """Where all replicas have room, all have a place; where not, nearly as many as could, the first by right."""
    found = compare(exact.solve, range(FLEETS))
    assert not found.faults
    assert not found.unsolved
    assert not found.misfits
    assert found.same >= FLEETS * 96 // 100
    assert found.placed_ratio >= 0.995
    assert 1 <= found.accelerators_ratio <= 1.02
    assert 1 <= found.price_ratio <= 1.02
