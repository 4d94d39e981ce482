"""The GitOps examples name fields, kinds and reasons that exist."""

import re
from typing import Any

import pytest
import yaml

from plinth.api.v1alpha1 import GROUP, Reason
from plinth.tests.house.documents import ROOT

EXAMPLES = ROOT / "examples/gitops"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
CRDS = {
    found["spec"]["names"]["kind"]: found
    for path in (ROOT / "crds").glob("*.yaml")
    for found in [yaml.safe_load(path.read_text(encoding="utf-8"))]
}


def documents_in(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8")))


def has_field(kind: str, pointer: str) -> bool:
    """Whether the kind has a field at this JSON pointer."""
    schema = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in pointer.strip("/").split("/"):
        schema = schema.get("properties", {}).get(name)
        if schema is None:
            return False
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_document_has_a_kind_and_a_name(path: Any) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert document["apiVersion"]
        assert document["kind"]
        assert document["metadata"]["name"]


def test_the_fields_of_ours_that_are_ignored_exist() -> None:
    (application,) = documents_in("argocd/models.yaml")
    ours = [each for each in application["spec"]["ignoreDifferences"] if each.get("group") == GROUP]
    assert ours
    for each in ours:
        for pointer in each["jsonPointers"]:
            assert has_field(each["kind"], pointer), pointer


def test_both_install_the_same_with_what_the_operator_owns_left_alone() -> None:
    (application,) = documents_in("argocd/plinth.yaml")
    release = documents_in("flux/plinth.yaml")[1]
    assert application["spec"]["source"]["helm"]["valuesObject"] == release["spec"]["values"]
    by_argo = {
        each["kind"]: each["jsonPointers"]
        for each in application["spec"]["ignoreDifferences"]
        if each["kind"] != "Secret"
    }
    by_flux = {each["target"]["kind"]: each["paths"] for each in release["spec"]["driftDetection"]["ignore"]}
    assert by_argo == by_flux


def test_health_is_told_by_reasons_that_exist() -> None:
    (settings,) = documents_in("argocd/health.yaml")
    scripts = settings["data"]
    assert {name.rpartition("_")[2] for name in scripts} == CRDS.keys()
    named = {each for script in scripts.values() for each in re.findall(r'reason == "(\w+)"', script)}
    assert named
    assert named <= {reason.value for reason in Reason}
