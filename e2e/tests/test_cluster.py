"""The cluster that tests of the whole stand on: pods run, names resolve, nodes are lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube.access import KubectlError
from kube.cluster import Cluster
from kube.host_python import SCRATCH_VOLUME, host_container, host_volumes
from kube.kuberay import Redis
from kube.probes import answers
from kube.processes import ProcessId, wait_until
from kube.run_folder import end_abandoned, runs_root

pytestmark = pytest.mark.node

CONFINED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
STARTS_A_CLUSTER = """
import os, sys
from kube.cluster import Cluster
from kube.processes import ProcessId
from kube.run_folder import RunFolder
cluster = Cluster(RunFolder.claim("cluster", owner=ProcessId.of(os.getpid())))
cluster.start()
print(cluster.lan.link, cluster.etcd.pid, cluster.api_server.pid, cluster.nodes["node1"].box.init.pid, flush=True)
sys.stdin.read()
"""
SERVES_FILES = ["python", "-m", "http.server", "8080", "--directory", "/etc"]


@pytest.fixture
def second_node(cluster: Cluster) -> Iterator[str]:
    name = "node2"
    cluster.add_node(name)
    yield name
    if name in cluster.nodes:
        cluster.kill_node(name)
    cluster.kubectl("delete", "node", name)


def make_pod(name: str, namespace: str, *, node: str = "node1", **container: Any) -> dict[str, Any]:
    """A confined pod of this machine's programs."""
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    main = host_container("main", SERVES_FILES, securityContext=CONFINED, readinessProbe=probe, **container)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "containers": [main],
            "volumes": [*host_volumes(), SCRATCH_VOLUME],
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
        },
    }


def make_service(name: str, namespace: str) -> dict[str, Any]:
    """Port 80 of a name, for the pod of that name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def wait_pods(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=50s", "-n", namespace)


def in_pod(cluster: Cluster, namespace: str, pod: str, code: str) -> str:
    return cluster.kubectl("exec", "-n", namespace, pod, "--", "python", "-c", code).strip()


def test_the_node_is_ready_and_names_its_version(cluster: Cluster) -> None:
    (node,) = cluster.list("nodes", "--field-selector=metadata.name=node1")
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.34.")
    assert cluster.nodes["node1"].is_ready()


def test_a_confined_pod_has_this_python_and_the_code_under_test(
    cluster: Cluster, cluster_namespace: str
) -> None:
    cluster.apply(make_pod("web", cluster_namespace))
    wait_pods(cluster, cluster_namespace)
    code = "import os, plinth; print(os.getuid(), plinth.__version__)"
    uid, version = in_pod(cluster, cluster_namespace, "web", code).split()
    assert (uid, bool(version)) == ("1000", True)
    with pytest.raises(KubectlError, match="Read-only file system"):
        in_pod(cluster, cluster_namespace, "web", "open('/home/x', 'w')")


def test_pods_of_two_nodes_and_this_machine_reach_each_other_by_service(
    cluster: Cluster, cluster_namespace: str, second_node: str
) -> None:
    for name, node in (("one", "node1"), ("two", second_node)):
        cluster.apply(make_pod(name, cluster_namespace, node=node), make_service(name, cluster_namespace))
    wait_pods(cluster, cluster_namespace)

    def reach(name: str, url: str) -> None:
        code = f"import urllib.request as r; r.urlopen('{url}', timeout=5)"

        def reaches() -> bool:
            try:
                in_pod(cluster, cluster_namespace, name, code)
            except KubectlError:
                return False
            return True

        wait_until(reaches, seconds=10, what=f"{name} reaches {url}")

    for name, other in (("one", "two"), ("two", "one"), ("one", "one")):
        reach(name, f"http://{other}.{cluster_namespace}.svc.cluster.local")
        pod = cluster.get("pod", name, cluster_namespace)["status"]["podIP"]
        assert answers(f"http://{pod}:8080")
        service = cluster.get("service", name, cluster_namespace)["spec"]["clusterIP"]
        assert answers(f"http://{service}")


def test_a_lost_node_takes_its_pods_with_it_and_no_other(
    cluster: Cluster, cluster_namespace: str, second_node: str
) -> None:
    cluster.apply(make_pod("stays", cluster_namespace), make_pod("goes", cluster_namespace, node=second_node))
    wait_pods(cluster, cluster_namespace)

    def address(name: str) -> str:
        return f"http://{cluster.get('pod', name, cluster_namespace)['status'].get('podIP')}:8080"

    assert answers(address("goes"))
    cluster.kill_node(second_node)
    assert not answers(address("goes"))
    assert answers(address("stays"))
    cluster.add_node(second_node)  # it comes back, and its kubelet starts what it was to run
    wait_until(lambda: answers(address("goes")), seconds=30, what="the pod runs again")


def test_a_node_offers_accelerators_that_the_machine_has_not(
    cluster: Cluster, cluster_namespace: str
) -> None:
    cluster.set_capacity("node1", {"nvidia.com/gpu": 8})
    cluster.apply(make_pod("gpu", cluster_namespace, resources={"limits": {"nvidia.com/gpu": "2"}}))
    wait_pods(cluster, cluster_namespace)
    allocatable = cluster.get("node", "node1")["status"]["allocatable"]
    assert allocatable["nvidia.com/gpu"] == "8"


@pytest.fixture
def own_runs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for the records of clusters that no other run of tests looks into."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield runs_root()
    end_abandoned()


def test_what_a_killed_run_leaves_is_ended_by_the_next(own_runs_root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", STARTS_A_CLUSTER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as started:
        assert started.stdout is not None
        link, *pids = started.stdout.readline().decode().split()
        started.kill()
    left = [ProcessId.of(int(pid)) for pid in pids]
    (folder,) = own_runs_root.glob("cluster.*")
    cgroups = list(Path("/sys/fs/cgroup").glob(f"**/plinth-{folder.name}-node1"))
    assert all(process.lives() for process in left)
    assert cgroups
    end_abandoned()
    assert not any(process.lives() for process in left)
    assert not any(path.exists() for path in (folder, *cgroups, Path("/sys/class/net", link)))


def test_redis_has_again_after_a_crash_what_was_written(redis: Redis) -> None:
    host, _, port = redis.address.partition(":")

    def ask(command: str) -> str:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"AUTH {redis.password}\r\n{command}\r\nQUIT\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        return answer.decode().removeprefix("+OK\r\n").removesuffix("+OK\r\n")

    assert ask("SET head here") == "+OK\r\n"
    redis.process.kill()
    with pytest.raises(OSError, match="refused"):
        ask("GET head")
    redis.start()
    assert "here" in ask("GET head")
