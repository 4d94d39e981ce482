"""The clusters as pytest fixtures; e2e/tests/conftest.py takes them in.

`KUBECONFIG` names an existing cluster for the tests that only speak to an API server; those with pods need nodes that
have this machine's files, and so a cluster of their own.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kube.access import Kubernetes
from kube.binaries import ProgramMissingError
from kube.cluster import Cluster
from kube.control_plane import ControlPlane
from kube.kuberay import Redis, start_kuberay, start_redis
from kube.processes import Process, ProcessId
from kube.requirements import RequirementError, require_control_plane, require_nodes
from kube.run_folder import RunFolder, end_abandoned

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """An API server that the session's tests share, with Plinth's CRDs; each test keeps to a namespace of its own."""
    if given := os.environ.get("KUBECONFIG"):
        cluster = Kubernetes(Path(given), tmp_path_factory.mktemp("kubeconfigs"))
        install_crds(cluster)
        yield cluster
        return
    with make_control_plane(tmp_path_factory) as made:
        yield made


@pytest.fixture
def own_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of one test's own, to be stopped, killed and started again at will."""
    with make_control_plane(tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with one node that the session's tests share, with Plinth's CRDs."""
    with make_cluster(tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="session")
def kuberay(cluster: Cluster) -> Process:
    """KubeRay's operator, at work in `cluster`."""
    with skip_without_requirements():
        require_control_plane("kuberay")
    return start_kuberay(cluster)


@pytest.fixture(scope="session")
def redis(cluster: Cluster) -> Redis:
    """A Redis that the pods of `cluster` reach."""
    with skip_without_requirements():
        require_control_plane("redis-server")
    return start_redis(cluster)


@pytest.fixture
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace in `cluster` for one test; what the test leaves in it goes on being removed afterwards."""
    yield from _make_namespace(cluster)


@pytest.fixture
def kube_namespace(control_plane: Kubernetes) -> Iterator[str]:
    """A new namespace for one test."""
    yield from _make_namespace(control_plane)


@contextmanager
def make_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with Plinth's CRDs, ended with everything of it; its logs stay with pytest's temporary files."""
    with skip_without_requirements():
        require_control_plane()
    with claim_run_folder("control-plane", tmp_path_factory) as run:
        made = ControlPlane(run)
        made.start()
        install_crds(made)
        yield made


@contextmanager
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with Plinth's CRDs, ended with everything of it; its logs stay with pytest's temporary files."""
    with skip_without_requirements():
        require_nodes()
    with claim_run_folder("cluster", tmp_path_factory) as run:
        made = Cluster(run)
        made.start()
        install_crds(made)
        yield made


@contextmanager
def claim_run_folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A folder for a cluster of this test run, after what killed runs have left is ended."""
    end_abandoned()
    run = RunFolder.claim(name, owner=ProcessId.of(os.getpid()))
    try:
        yield run
    finally:
        shutil.copytree(run.logs, tmp_path_factory.mktemp(name) / "logs")
        run.end()


def install_crds(cluster: Kubernetes) -> None:
    """Apply Plinth's CRDs and wait until they are served."""
    cluster.apply_crds(CRDS)


@contextmanager
def skip_without_requirements() -> Iterator[None]:
    """Skip the test where something is missing; under CI fail, which must never pass by leaving tests out."""
    try:
        yield
    except (ProgramMissingError, RequirementError) as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


def _make_namespace(cluster: Kubernetes) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
