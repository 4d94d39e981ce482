"""How a pod of image `HOST` gets programs, Python and the code under test: read-only, from this machine.

The same functions serve a Deployment (as Helm values), a RayCluster's pod templates and a bare pod.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kube.images import HOST

CHECKOUT = Path(__file__).parents[2]
PULL_POLICY = "Never"
SCRATCH = "/tmp"  # noqa: S108 - a pod's own
SCRATCH_VOLUME: dict[str, Any] = {"name": "tmp", "emptyDir": {}}
"""What `host_container` may write to; the chart's and the pools' pods have theirs without this."""


def host_volumes() -> list[dict[str, Any]]:
    """This machine's folders as volumes of a pod."""
    return [
        {"name": name, "hostPath": {"path": str(path), "type": "Directory"}}
        for name, path in _folders().items()
    ]


def host_mounts() -> list[dict[str, Any]]:
    """The container's mounts of those volumes: each folder at the path that it has here."""
    return [{"name": name, "mountPath": str(path), "readOnly": True} for name, path in _folders().items()]


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
    """A container that runs a program of this machine; its pod needs `host_volumes()` and `SCRATCH_VOLUME`."""
    return {
        "name": name,
        "image": HOST,
        "imagePullPolicy": PULL_POLICY,
        "command": command,
        "env": host_environment(),
        "volumeMounts": [*host_mounts(), {"name": SCRATCH_VOLUME["name"], "mountPath": SCRATCH}],
        **fields,
    }


def _folders() -> dict[str, Path]:
    """By volume name; a folder within another one comes with it."""
    wanted = {
        "host-usr": Path("/usr"),
        "host-python": Path(sys.base_prefix),
        "host-environment": Path(sys.prefix),
        "host-checkout": CHECKOUT,
    }
    return {
        name: path
        for name, path in wanted.items()
        if not any(path.is_relative_to(other) for other in wanted.values() if other != path)
    }
