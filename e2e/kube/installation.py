"""Plinth in a cluster of tests: the chart's values and a pool with which its pods run this machine's programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kube.access import Kubernetes
from kube.binaries import find_program
from kube.host_python import CHECKOUT, PULL_POLICY, host_environment, host_mounts, host_volumes
from kube.images import HOST

CHART = CHECKOUT / "charts" / "plinth"
NAMESPACE = "plinth-system"
HELM_SECONDS = 300
HEAD_RESOURCES = {"requests": {"cpu": "300m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
"""Less than a head of a real pool asks for. Its share of a busy machine's cores follows from it, so not much less."""


class HelmError(Exception):
    """Helm ended with an error; the text is what it said."""


def make_chart_values(**changes: Any) -> dict[str, Any]:
    """Values for the chart; keyword arguments replace whole sections."""
    repository, _, tag = HOST.rpartition(":")
    # All of it shares few cores with Ray: what it asks for must leave a node's scheduler room for a worker.
    little = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    return {
        "operator": {"resources": little},
        "gateway": {"resources": little, "agentResources": little, "requiresKey": False},
        "image": {"repository": repository, "tag": tag, "pullPolicy": PULL_POLICY},
        "engine": {"image": {"repository": repository, "tag": tag}},
        "redis": {"enabled": True, "image": HOST, "executable": str(find_program("redis-server"))},
        "executables": {"plinth": f"{sys.prefix}/bin/plinth", "python": sys.executable},
        "extraEnv": host_environment(),
        "extraVolumes": host_volumes(),
        "extraVolumeMounts": host_mounts(),
        **changes,
    }


def make_pool(name: str, **spec: Any) -> dict[str, Any]:
    """A GPUPool on this machine's CPUs; keyword arguments replace whole sections of its spec."""
    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": name},
        "spec": {
            "accelerator": "CPU",
            "ray": {
                "headTemplate": _pod_template(
                    {"name": "ray", "resources": HEAD_RESOURCES}, {"name": "inspector"}
                ),
                "workerTemplate": _pod_template({"name": "ray"}),
            },
            **spec,
        },
    }


def install_chart(cluster: Kubernetes, values: dict[str, Any], *arguments: str) -> None:
    """Install the chart, or bring the installation in line with these values.

    Raises:
        HelmError: it could not be installed.
    """
    # The harness may have applied the CRDs itself: they become the release's.
    flags = ("--namespace", NAMESPACE, "--create-namespace", "--take-ownership")
    release = ("upgrade", "--install", "plinth", CHART)
    run_helm(*release, *flags, *arguments, kubeconfig=cluster.kubeconfig, values=values)


def run_helm(
    *arguments: str | Path, kubeconfig: Path | None = None, values: Mapping[str, Any] | None = None
) -> str:
    """Run Helm, against a cluster or alone; returns what it printed.

    Raises:
        HelmError: it failed.
    """
    command: list[str | Path] = [find_program("helm"), *arguments]
    command += ["--kubeconfig", kubeconfig] if kubeconfig else []
    command += ["--values", "-"] if values is not None else []
    done = subprocess.run(
        command,
        input=json.dumps(values) if values is not None else "",
        capture_output=True,
        text=True,
        timeout=HELM_SECONDS,
        check=False,
    )
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def _pod_template(*containers: dict[str, Any]) -> dict[str, Any]:
    changed = {
        "imagePullPolicy": PULL_POLICY,
        "env": host_environment(),
        "volumeMounts": host_mounts(),
    }
    return {
        "spec": {
            "containers": [{**container, **changed} for container in containers],
            "volumes": host_volumes(),
            # The shell that KubeRay starts Ray from does not pass on that it is to end: the whole grace would be waited.
            "terminationGracePeriodSeconds": 1,
        }
    }
