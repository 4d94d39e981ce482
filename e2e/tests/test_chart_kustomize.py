"""The Kustomize base is the chart as it is, and the example builds an installation on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import find, render_text
from kube.access import Kubernetes
from kube.host_python import CHECKOUT
from kube.installation import NAMESPACE

from plinth.desired.key_secrets import KEYS_NAMESPACE

pytestmark = pytest.mark.kube

KUSTOMIZE = CHECKOUT / "deploy/kustomize"


@pytest.fixture
def example(control_plane: Kubernetes, tmp_path: Path) -> str:
    """The example's objects, with the secrets that whoever installs it makes."""
    folder = Path(shutil.copytree(KUSTOMIZE, tmp_path / "kustomize")) / "example"
    for name in ("engine-secret", "gateway-token"):
        (folder / name).write_text(f"made at random for {name}\n")
    return control_plane.kubectl("kustomize", folder)


def objects_in(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def test_the_base_is_what_the_chart_renders() -> None:
    rendered = render_text({"secrets": {"create": False}, "crds": {"install": False}}, hooks=False)
    assert (KUSTOMIZE / "base/plinth.yaml").read_text() == rendered, "run: deploy/kustomize/render.sh"


def test_the_base_builds_and_says_who_manages_it(control_plane: Kubernetes) -> None:
    built = objects_in(control_plane.kubectl("kustomize", KUSTOMIZE / "base"))
    assert {each["metadata"]["labels"]["app.kubernetes.io/managed-by"] for each in built} == {"kustomize"}
    assert find(built, "Namespace", NAMESPACE)


def test_the_example_has_its_own_images_secrets_and_redis(example: str) -> None:
    built = objects_in(example)
    (operator,) = find(built, "Deployment", "plinth-operator")["spec"]["template"]["spec"]["containers"]
    assert operator["image"] == "registry.example/plinth/operator:0.1.0"
    assert "--redis-address=redis.example:6379" in operator["args"]
    for name, key in (("plinth-engine", "secret"), ("plinth-gateway", "token")):
        assert set(find(built, "Secret", name, NAMESPACE)["data"]) == {key}
    assert find(built, "Namespace", KEYS_NAMESPACE)
    assert find(built, "RoleBinding", "plinth-keys", KEYS_NAMESPACE)


def test_the_api_server_takes_the_example(control_plane: Kubernetes, example: str) -> None:
    for name in (NAMESPACE, KEYS_NAMESPACE):
        control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    control_plane.kubectl("apply", *flags, "-f", "-", stdin=example)
