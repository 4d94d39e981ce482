"""`make cluster` and `make cluster-down`: the cluster of the tests, for a person to play with.

It stays until it is taken down; its folder has the record of what that means.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from kube.binaries import find_program
from kube.cluster import Cluster
from kube.installation import NAMESPACE, HelmError, install_chart, make_chart_values, make_pool
from kube.kuberay import start_kuberay
from kube.requirements import RequirementError, require_nodes
from kube.run_folder import RunFolder, end_abandoned, runs_root

NAME = "play"
READY = "5m"


def up() -> None:
    """Bring the cluster up with KubeRay and Plinth in it; one that is up already is left as it is."""
    if not (running := _running()):
        end_abandoned()
        require_nodes("kuberay", "helm", "redis-server")
        running = [RunFolder.claim(NAME, owner=None)]
        try:
            _start(running[0])
        except BaseException:
            running[0].end()
            raise
    _note(f"kubectl: {find_program('kubectl')}")
    print(f"export KUBECONFIG={running[0].path / 'admin.kubeconfig'}")


def down() -> None:
    """End the cluster and everything of it."""
    for run in _running():
        run.end()


def _start(run: RunFolder) -> None:
    cluster = Cluster(run)
    _say("control plane, node and DNS", cluster.start)
    _say("KubeRay", lambda: start_kuberay(cluster))
    try:
        _say("Plinth", lambda: install_chart(cluster, make_chart_values(), "--wait", f"--timeout={READY}"))
    except HelmError as error:  # the cluster stays, to look into why
        _note(f"Plinth is not ready: {error}; look into it: kubectl get pods,events -n {NAMESPACE}")
        return
    cluster.apply(make_pool("cpu"))
    _note(f"namespace {NAMESPACE} has Plinth, GPUPool cpu stands on this machine's CPUs")
    _note("serve a model: kubectl apply -f examples/quickstart; kubectl get mdl,gpool")


def _say(what: str, do: Callable[[], object]) -> None:
    began = time.monotonic()
    do()
    _note(f"{what}: {time.monotonic() - began:.0f} s")


def _note(line: str) -> None:
    """To a person, while standard output has what a shell may take in."""
    print(f"# {line}", file=sys.stderr, flush=True)


def _running() -> list[RunFolder]:
    return [RunFolder(path) for path in sorted(runs_root().glob(f"{NAME}.*"))]


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except RequirementError as error:
        sys.exit(f"no cluster can run here: {error}")
