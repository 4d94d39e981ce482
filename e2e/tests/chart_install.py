"""An API server of the chart tests' own, with what the chart expects to find, and Helm speaking to it.

Its own, because the chart brings cluster-wide objects (webhooks, roles) that other tests must not meet. There are no
nodes: what is tested is what the API server takes and allows, not what pods do.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chart import Values
from kube.access import Kubernetes
from kube.installation import CHART, NAMESPACE, run_helm

NAMESPACES = (NAMESPACE, "team-a", "team-b")


@dataclass(frozen=True)
class Installation:
    """One release of the chart."""

    cluster: Kubernetes

    def helm(self, *arguments: str | Path, values: Values | None = None) -> str:
        """Run Helm against the cluster. Raises HelmError."""
        flags = ("--namespace", NAMESPACE)
        return run_helm(*arguments, *flags, kubeconfig=self.cluster.kubeconfig, values=values)

    def install(self, values: Values) -> None:
        """Install; without waiting, since no pod will ever run."""
        # The harness applied the CRDs itself: they become the release's.
        self.helm("install", "plinth", CHART, "--take-ownership", values=values)

    def upgrade(self, chart: Path, values: Values) -> None:
        """Upgrade to a chart and values."""
        self.helm("upgrade", "plinth", chart, values=values)

    def uninstall(self) -> None:
        """Uninstall without the hook, whose Job would wait for a node."""
        self.helm("uninstall", "plinth", "--no-hooks")

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        """An object of the release."""
        return self.cluster.get(kind, name, namespace)

    def secret(self, name: str, key: str) -> str:
        """A secret's value."""
        return base64.b64decode(self.get("secret", name)["data"][key]).decode()


def prepare(cluster: Kubernetes) -> None:
    """Make the namespaces, in which only pods of the strictest kind may run, and the kinds of others."""
    for name in NAMESPACES:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    cluster.apply(
        make_crd("monitoring.coreos.com", "ServiceMonitor", "servicemonitors"),
        make_crd("monitoring.coreos.com", "PodMonitor", "podmonitors"),
        make_crd("monitoring.coreos.com", "PrometheusRule", "prometheusrules"),
        make_crd("ray.io", "RayCluster", "rayclusters"),
    )
    cluster.wait_crds("crd", "--all")


def make_crd(group: str, kind: str, plural: str) -> dict[str, Any]:
    """A kind of somebody else's, so that the API server has heard of it; its fields are not checked."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }
