"""The clusters as pytest fixtures; e2e/tests/conftest.py takes them in.

`KUBECONFIG` names an existing cluster for the tests that only speak to an API server. Where something cannot run on
this machine its tests are skipped with the reason, and fail under CI, which must never pass by leaving them out.
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
from kube.binaries import ProgramMissingError, find_program
from kube.control_plane import ControlPlane
from kube.processes import ProcessId
from kube.run_folder import RunFolder, end_abandoned

CRDS = Path(__file__).parents[2] / "crds"
CONTROL_PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kubectl")


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


@pytest.fixture
def kube_namespace(control_plane: Kubernetes) -> Iterator[str]:
    """A new namespace for one test."""
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def make_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with Plinth's CRDs, ended with everything of it; its logs stay with pytest's temporary files."""
    require_programs(CONTROL_PLANE_PROGRAMS)
    with claim_run_folder("control-plane", tmp_path_factory) as run:
        made = ControlPlane(run)
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
    cluster.kubectl("apply", "--server-side", "-f", CRDS)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", CRDS)


def require_programs(names: tuple[str, ...]) -> None:
    """Leave the test out where a program is missing; under CI it fails."""
    try:
        for name in names:
            find_program(name)
    except ProgramMissingError as error:
        leave_out(str(error))


def leave_out(reason: str) -> None:
    """Skip the test for this reason; under CI fail."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
