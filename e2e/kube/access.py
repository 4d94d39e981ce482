"""A Kubernetes API server as tests use it, wherever it runs: kubectl, and kubeconfigs for whoever shall speak to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kube.binaries import find_program
from kube.processes import wait_until

KUBECTL_SECONDS = 300.0
"""Only against a hung one: what waits for something says itself for how long (`--timeout`)."""
CRD_SECONDS = 30.0


class KubectlError(Exception):
    """kubectl ended with an error; the text is what it said."""


class Kubernetes:
    """An API server and an administrator's kubeconfig for it."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        """Where the kubeconfigs that are made here go."""

    def kubectl(self, *arguments: str | Path, stdin: str = "", seconds: float = KUBECTL_SECONDS) -> str:
        """Run kubectl as the administrator; returns what it printed.

        Raises:
            KubectlError: it refused.
        """
        return run_kubectl(self.kubeconfig, *arguments, stdin=stdin, seconds=seconds)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects on the server's side."""
        self.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def apply_crds(self, folder: Path) -> None:
        """Apply a folder of CRDs and wait until they are served."""
        self.kubectl("apply", "--server-side", "-f", folder)
        self.wait_crds("-f", folder)

    def wait_crds(self, *which: str | Path) -> None:
        """Wait until CRDs are served; arguments of `kubectl wait` pick them."""

        def are_served() -> bool:
            # kubectl refuses to wait for a condition of a CRD that the API server has not looked at yet.
            with contextlib.suppress(KubectlError):
                self.kubectl("wait", "--for=condition=Established", "--timeout=10s", *which)
                return True
            return False

        wait_until(are_served, seconds=CRD_SECONDS, what="the CRDs are served")

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a kind; arguments of `kubectl get` pick them."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return found

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig that speaks as a service account, by a token that the API server signed for it."""
        token = self.kubectl("create", "token", name, "-n", namespace).strip()
        return self.derive_kubeconfig(f"{namespace}-{name}", {"token": token})

    def derive_kubeconfig(self, name: str, user: Mapping[str, Any]) -> Path:
        """A kubeconfig for the same server with other credentials."""
        config = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        path = self.folder / f"{name}.kubeconfig"
        write_kubeconfig(path, config["clusters"][0]["cluster"], user)
        return path


def run_kubectl(
    kubeconfig: Path, *arguments: str | Path, stdin: str = "", seconds: float = KUBECTL_SECONDS
) -> str:
    """Run kubectl with this kubeconfig; returns what it printed.

    Raises:
        KubectlError: it refused.
    """
    done = subprocess.run(
        [find_program("kubectl"), "--kubeconfig", kubeconfig, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise KubectlError(done.stderr.strip())
    return done.stdout


def write_kubeconfig(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    """Write a kubeconfig of one cluster and one user, readable by its owner alone."""
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "plinth", "cluster": dict(cluster)}],
                "users": [{"name": "plinth", "user": dict(user)}],
                "contexts": [{"name": "plinth", "context": {"cluster": "plinth", "user": "plinth"}}],
                "current-context": "plinth",
            }
        )
    )
