"""The plan beside the exact answer, on 500 small fleets."""

from __future__ import annotations

import os

import pytest

from plinth.tests.domain.placing.comparison import compare
from plinth.tests.domain.placing.optima import PYTHON, find_optima

FLEETS = 500


@pytest.mark.process
@pytest.mark.skipif(
    not (PYTHON.exists() or os.environ.get("CI")), reason="no exact solver here: make .venv-exact/.installed"
)
def test_plans_stay_within_two_percent_of_the_optimum() -> None:
    """Where all replicas have room, all have a place; where not, nearly as many as could, the first by right."""
    found = compare(find_optima(range(FLEETS)))
    assert found.fleets == FLEETS
    assert not found.faults
    assert not found.unsolved
    assert not found.misfits
    assert found.same >= FLEETS * 96 // 100
    assert found.placed_ratio >= 0.995
    assert 1 <= found.accelerators_ratio <= 1.02
    assert 1 <= found.price_ratio <= 1.02
