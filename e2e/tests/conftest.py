"""Fixtures: a fleet of a test's own, or one that a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, make_model
from kube.fixtures import (
    cluster,
    cluster_namespace,
    control_plane,
    kube_namespace,
    kuberay,
    own_control_plane,
    redis,
)

__all__ = [
    "cluster",
    "cluster_namespace",
    "control_plane",
    "fleet",
    "kube_namespace",
    "kuberay",
    "own_control_plane",
    "redis",
    "shared_fleet",
]


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
