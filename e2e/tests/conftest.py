"""Fixtures: a fleet of a test's own, or one that a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, make_model
from kube.fixtures import control_plane, kube_namespace, own_control_plane

__all__ = ["control_plane", "fleet", "kube_namespace", "own_control_plane", "shared_fleet"]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of one test's own, not yet up."""
    made = Fleet(tmp_path)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that a module's tests share: up, with SmolLM2 ready."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    made.write(make_model())
    made.up()
    try:
        made.wait_ready()
        yield made
    finally:
        made.clear()
