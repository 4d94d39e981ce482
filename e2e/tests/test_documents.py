"""Every manifest that a document shows is taken by a real API server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from kube.access import Kubernetes

pytestmark = pytest.mark.kube

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    for number, block in enumerate(BLOCK.findall(path.read_text()))
    if "apiVersion:" in block
]


@pytest.mark.parametrize("block", SHOWN)
def test_a_manifest_in_a_document_is_taken(
    control_plane: Kubernetes, kube_namespace: str, block: str
) -> None:
    manifests = [each for each in yaml.safe_load_all(block) if each]
    for each in manifests:
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = kube_namespace
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "-n", kube_namespace)
    control_plane.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump_all(manifests))


def test_there_are_manifests_in_the_documents() -> None:
    assert len(SHOWN) >= 2
