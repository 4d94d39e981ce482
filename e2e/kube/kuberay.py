"""KubeRay's operator and a Redis, as processes beside the control plane.

The operator has the rights that KubeRay's own ClusterRole gives it and no more. Redis keeps what a Ray head must find
again after its death; it can be stopped, killed and started again with its data.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass

import yaml

from kube.access import Kubernetes
from kube.binaries import find_module_files
from kube.cluster import Cluster
from kube.control_plane import ControlPlane
from kube.probes import answers
from kube.processes import Process, find_free_ports

MODULE = "github.com/ray-project/kuberay/ray-operator"
USER = "system:kuberay-operator"
ROLE = "kuberay-operator"
START_SECONDS = 60.0
REDIS_PORT = 6379


def install_ray_crds(cluster: Kubernetes) -> None:
    """Apply KubeRay's CRDs and wait until they are served."""
    crds = find_module_files("kuberay", MODULE, "config/crd/bases")
    cluster.apply_crds(crds)


def start_kuberay(control_plane: ControlPlane) -> Process:
    """Install the CRDs and start the operator; returns when it works."""
    install_ray_crds(control_plane)
    rights = find_module_files("kuberay", MODULE, "config/rbac") / "role.yaml"
    control_plane.apply(*yaml.safe_load_all(rights.read_text()), _binding())
    (port,) = find_free_ports(1)
    health = f"{control_plane.endpoint.address}:{port}"
    process = control_plane.process(
        "kuberay",
        f"--kubeconfig={control_plane.user_kubeconfig(USER)}",
        f"--health-probe-bind-address={health}",
        "--metrics-addr=0",
        "--enable-leader-election=false",
    )
    process.start()
    process.wait(lambda: answers(f"http://{health}/healthz"), seconds=START_SECONDS, what="KubeRay answers")
    return process


@dataclass(frozen=True)
class Redis:
    """A Redis that pods reach."""

    process: Process
    address: str
    """host:port, as RayCluster's `gcsFaultToleranceOptions.redisAddress` wants it."""
    password: str

    def start(self) -> None:
        """Start it, for the first time or after it was stopped or killed; returns when it answers."""
        self.process.start()
        host, _, port = self.address.partition(":")
        self.process.wait(lambda: _listens(host, int(port)), seconds=START_SECONDS, what="Redis answers")


def start_redis(cluster: Cluster) -> Redis:
    """Start Redis on the first node's address."""
    password = secrets.token_hex(16)
    folder = cluster.run.path / "redis"
    folder.mkdir()
    process = cluster.process(
        "redis-server",
        *("--bind", cluster.endpoint.address, "--port", str(REDIS_PORT), "--requirepass", password),
        # What a head wrote is there again after a crash of Redis, though not after one of the machine.
        *("--dir", folder, "--appendonly", "yes", "--appendfsync", "no", "--save", ""),
    )
    redis = Redis(process, f"{cluster.endpoint.address}:{REDIS_PORT}", password)
    redis.start()
    return redis


def _binding() -> dict[str, object]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
