"""How a pod of image `HOST` gets programs, Python and the code under test: read-only, from this machine.

The same four functions serve a Deployment (as Helm values), a RayCluster's pod templates and a bare pod.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kube.images import HOST

CHECKOUT = Path(__file__).parents[2]
SCRATCH = "/tmp"  # noqa: S108 - a pod's own


def host_volumes() -> list[dict[str, Any]]:
    """The pod's volumes: this machine's folders, and a scratch folder that the pod may write."""
    folders = [
        {"name": name, "hostPath": {"path": str(path), "type": "Directory"}}
        for name, path in _folders().items()
    ]
    return [*folders, {"name": "scratch", "emptyDir": {}}]


def host_mounts() -> list[dict[str, Any]]:
    """The container's mounts of those volumes: each folder at the path that it has here."""
    folders = [{"name": name, "mountPath": str(path), "readOnly": True} for name, path in _folders().items()]
    return [*folders, {"name": "scratch", "mountPath": SCRATCH}]


def host_environment() -> list[dict[str, str]]:
    """The container's environment: this Python and the checkout's code come first."""
    environment = {
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{CHECKOUT / 'operator'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": SCRATCH,
    }
    return [{"name": name, "value": value} for name, value in environment.items()]


def host_container(name: str, command: list[str], **fields: Any) -> dict[str, Any]:
    """A container that runs a program of this machine."""
    return {
        "name": name,
        "image": HOST,
        "imagePullPolicy": "Never",
        "command": command,
        "env": host_environment(),
        "volumeMounts": host_mounts(),
        **fields,
    }


def _folders() -> dict[str, Path]:
    """By volume name; a folder within another one comes with it."""
    wanted = {
        "usr": Path("/usr"),
        "python": Path(sys.base_prefix),
        "environment": Path(sys.prefix),
        "checkout": CHECKOUT,
    }
    return {
        name: path
        for name, path in wanted.items()
        if not any(path.is_relative_to(other) for other in wanted.values() if other != path)
    }
