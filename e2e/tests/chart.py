"""The chart as its tests use it: rendered by real Helm, and the parts of what comes out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kube.installation import CHART, NAMESPACE, run_helm

KUBE_VERSION = "1.34.4"
"""Helm built from its module does not know which Kubernetes it was made for."""

Manifest = dict[str, Any]
Values = Mapping[str, Any]

COMBINATIONS: dict[str, Values] = {
    "defaults": {},
    "redis of the chart": {"redis": {"enabled": True}},
    "redis of the chart with a volume": {
        "redis": {"enabled": True, "storage": {"size": "1Gi", "className": "fast"}}
    },
    "redis of one's own": {"redis": {"address": "redis.example:6379", "passwordSecret": "redis"}},
    "redis of one's own without a password": {"redis": {"address": "redis.example:6379"}},
    "gateways with a redis of their own": {
        "redis": {"enabled": True},
        "gateway": {
            "redis": {"address": "counts.example:6379/2", "passwordSecret": "counts"},
            "cache": {"shared": True},
            "workers": "auto",
        },
    },
    "gateways with a redis of their own without a password": {
        "gateway": {"redis": {"address": "counts.example:6379"}}
    },
    "gateways that speak tls to both sides": {
        "gateway": {
            "tls": {"secret": "models-example-com"},
            "redis": {
                "address": "counts.example:6380",
                "tls": {
                    "enabled": True,
                    "authoritySecret": "counts-ca",
                    "certificateSecret": "counts-client",
                },
            },
        }
    },
    "gateways that speak tls to a redis of a known authority": {
        "gateway": {"redis": {"address": "counts.example:6380", "tls": {"enabled": True}}}
    },
    "no key asked for": {"gateway": {"requiresKey": False}},
    "keys in a namespace that is there": {"keys": {"namespace": "keys", "createNamespace": False}},
    "secrets of one's own": {"secrets": {"create": False}},
    "dedicated namespaces": {"namespaces": ["team-a", "team-b"], "redis": {"enabled": True}},
    "no network policies": {"networkPolicy": {"enabled": False}, "namespaces": ["team-a"]},
    "clients and monitoring named": {
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"plinth-client": "yes"}}}],
            "monitoring": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ],
        }
    },
    "monitoring": {
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True},
            "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
        }
    },
    "neither crds nor roles for people": {"crds": {"install": False}, "userRoles": {"create": False}},
    "one replica each, behind a load balancer": {
        "operator": {"replicas": 1},
        "gateway": {"replicas": 1, "service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}},
    },
    "an image, programs and volumes of one's own": {
        "image": {"repository": "registry.example/plinth", "tag": "test", "pullPolicy": "Never"},
        "imagePullSecrets": [{"name": "registry"}],
        "executables": {"plinth": "/opt/venv/bin/plinth", "python": "/opt/venv/bin/python"},
        "extraEnv": [{"name": "HF_ENDPOINT", "value": "https://hub.example"}],
        "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
        "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/ssl/certs", "readOnly": True}],
    },
    "a home and a scratch folder of one's own": {
        "extraEnv": [{"name": "HOME", "value": "/home/plinth"}],
        "extraVolumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}],
        "extraVolumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a volume
            {"name": "scratch", "mountPath": "/home/plinth"},
        ],
    },
    "placed by hand": {
        part: {
            "nodeSelector": {"role": "platform"},
            "tolerations": [{"key": "platform", "operator": "Exists", "effect": "NoSchedule"}],
        }
        for part in ("operator", "gateway")
    },
}
"""Every combination of values that takes another way through the templates."""


def render_text(values: Values, *, hooks: bool = True, chart: Path = CHART) -> str:
    """The chart's manifests as one document stream."""
    flags = ["--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, *([] if hooks else ["--no-hooks"])]
    return run_helm("template", "plinth", chart, *flags, values=values)


def render(values: Values, *, hooks: bool = True) -> list[Manifest]:
    """The chart's objects."""
    return [each for each in yaml.safe_load_all(render_text(values, hooks=hooks)) if each]


def newer_chart(folder: Path) -> Path:
    """The chart as its next version would be."""
    chart = Path(shutil.copytree(CHART, folder / "plinth"))
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "99.0.0", "appVersion": "99.0.0"}))
    return chart


def find(manifests: list[Manifest], kind: str, name: str, namespace: str | None = None) -> Manifest:
    """The one object of this kind and name."""
    (found,) = (
        each
        for each in manifests
        if each["kind"] == kind
        and each["metadata"]["name"] == name
        and namespace in {None, each["metadata"].get("namespace")}
    )
    return found


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each pod that the objects make, with a name for it."""
    for each in manifests:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield name, each["spec"]
        elif each["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield name, each["spec"]["template"]["spec"]


def containers(spec: Manifest) -> Iterator[Manifest]:
    """All containers of a pod, sidecars too."""
    yield from spec.get("initContainers", [])
    yield from spec["containers"]
