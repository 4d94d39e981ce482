"""The CRDs: committed as rendered, structural, bounded, with paths that lead somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import jsonschema
import pytest
import yaml

from plinth.api.v1alpha1 import Condition, ModelDeploymentStatus, parse_resource
from plinth.api.v1alpha1.crdgen import make_crds, render_crds, write_crds
from plinth.api.v1alpha1.figures import Measured, Predicted
from plinth.api.v1alpha1.reference import render_reference
from plinth.api.v1alpha1.rules import RULES, TRANSITIONS
from plinth.tests.api.apiserver import schema_of, with_defaults
from plinth.tests.api.building import model_document, policy_document, pool_document

REPOSITORY = Path(__file__).parents[4]
CRDS = make_crds()
STRUCTURAL_WORDS = {
    *("description", "type", "format", "enum", "default", "pattern", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "maxProperties", "required"),
    *("properties", "additionalProperties", "items"),
    *("x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    "x-kubernetes-preserve-unknown-fields",
}
Schema = dict[str, Any]


def version(crd: dict[str, Any]) -> dict[str, Any]:
    (only,) = crd["spec"]["versions"]
    assert isinstance(only, dict)
    return only


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema in a schema, by path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from nodes(schema[word], f"{path}[]")


ALL_NODES = [
    (crd["spec"]["names"]["kind"] + path, node)
    for crd in CRDS
    for path, node in nodes(version(crd)["schema"]["openAPIV3Schema"])
]


def at(kind: str, path: str) -> Schema | None:
    node: Schema | None = schema_of(kind)
    for step in path.strip(".").split("."):
        node = node.get("properties", {}).get(step.removesuffix("[]")) if node else None
        node = node["items"] if node and step.endswith("[]") else node
    return node


def test_the_committed_crds_are_those_rendered_now() -> None:
    committed = {path.name: path.read_text() for path in (REPOSITORY / "crds").glob("*.yaml")}
    assert committed == render_crds(), "run `plinth crds crds/`"


def test_the_committed_reference_is_the_one_rendered_now() -> None:
    assert (REPOSITORY / "docs/reference/api.md").read_text() == render_reference()


def test_crds_are_written_where_asked(tmp_path: Path) -> None:
    written = write_crds(tmp_path / "new" / "folder")
    assert {path.name: path.read_text() for path in written} == render_crds()


def test_the_yaml_says_what_the_manifests_say() -> None:
    texts = render_crds().values()
    assert [yaml.safe_load(text) for text in texts] == CRDS
    assert not any("&id" in text or "*id" in text for text in texts)


@pytest.mark.parametrize(("path", "node"), ALL_NODES, ids=[path for path, _ in ALL_NODES])
def test_every_schema_is_structural(path: str, node: Schema) -> None:
    assert set(node) <= STRUCTURAL_WORDS, path
    assert node["type"] in {"object", "array", "string", "integer", "boolean"}
    assert not ("properties" in node and "additionalProperties" in node)
    assert set(node.get("required", ())) <= set(node.get("properties", ()))
    if node["type"] == "array":
        assert "items" in node


@pytest.mark.parametrize(("path", "node"), ALL_NODES, ids=[path for path, _ in ALL_NODES])
def test_everything_that_can_grow_is_bounded(path: str, node: Schema) -> None:
    """The API server estimates what a rule may cost from these bounds."""
    if node["type"] == "array":
        assert node["maxItems"] <= 64
    if "additionalProperties" in node:
        assert node["maxProperties"] <= 64
    bounded = {"maxLength", "enum", "format"} & node.keys()
    unbounded_by_nature = path.endswith((".apiVersion", ".kind", "status.ready", "status.workers"))
    assert node["type"] != "string" or bounded or unbounded_by_nature


@pytest.mark.parametrize(("path", "node"), ALL_NODES, ids=[path for path, _ in ALL_NODES])
def test_every_field_is_described_but_metadata_which_is_kubernetes_own(path: str, node: Schema) -> None:
    entry = path.endswith("[]") and node["type"] in {"string", "integer"}
    if path.count(".") == 1 and path.endswith(".metadata"):
        assert node == {"type": "object", "properties": {"name": node["properties"]["name"]}}
    elif not entry:
        assert node["description"].endswith(".")
        assert "\n" not in node["description"]


def rules() -> Iterator[tuple[str, dict[str, str]]]:
    for path, node in ALL_NODES:
        for rule in node.get("x-kubernetes-validations", []):
            yield path, rule


@pytest.mark.parametrize(("path", "rule"), list(rules()), ids=lambda value: str(value)[:60])
def test_every_rule_parses_says_must_and_blames_a_field_that_exists(path: str, rule: dict[str, str]) -> None:
    cel.compile(rule["rule"])
    cel.compile(rule.get("messageExpression", "''"))
    assert rule["message"].startswith("must ")
    assert len(rule["message"]) <= 2048
    kind, _, below = path.partition(".")
    assert at(kind, f"{below}{rule['fieldPath']}") is not None


def test_the_rules_are_those_of_the_tables() -> None:
    told = {rule.cel for table in RULES.values() for rule in table}
    told |= {edit.cel for table in TRANSITIONS.values() for edit in table}
    assert {rule["rule"] for _, rule in rules()} == told


@pytest.mark.parametrize("kind", ["GPUPool", "ModelDeployment", "QuotaPolicy"])
def test_printer_columns_lead_to_fields_of_their_type(kind: str) -> None:
    crd = next(crd for crd in CRDS if crd["spec"]["names"]["kind"] == kind)
    for column in version(crd)["additionalPrinterColumns"]:
        if column["jsonPath"] == ".metadata.creationTimestamp":
            continue
        node = at(kind, column["jsonPath"])
        assert node is not None, column
        assert node["type"] == column["type"], column


def test_kubectl_get_answers_the_question() -> None:
    columns = {
        crd["spec"]["names"]["shortNames"][0]: [
            column["name"].upper() for column in version(crd)["additionalPrinterColumns"]
        ]
        for crd in CRDS
    }
    assert columns == {
        "gpool": ["ACCELERATOR", "WORKERS", "GPUS", "USED", "REASON", "AGE"],
        "mdl": ["READY", "SHAPE", "GPUS", "QUEUE", "COST/H", "REASON", "AGE", "PRIORITY"],
        "qpol": ["KEYS", "REQUESTS/MIN", "TOKENS/MIN", "CONCURRENCY", "PRIORITY", "REASON", "AGE"],
    }


def test_scopes_and_names() -> None:
    for crd in CRDS:
        names = crd["spec"]["names"]
        assert names["categories"] == ["plinth"]
        assert crd["metadata"]["name"] == f"{names['plural']}.plinth.dev"
        assert "status" in version(crd)["subresources"]
    assert [crd["spec"]["scope"] for crd in CRDS] == ["Cluster", "Namespaced", "Namespaced"]


def test_scale_leads_to_integers_that_are_always_there_and_to_a_selector() -> None:
    scale = version(CRDS[1])["subresources"]["scale"]
    replicas = at("ModelDeployment", scale["specReplicasPath"])
    assert replicas is not None
    assert replicas["type"] == "integer"
    assert "default" in replicas
    assert at("ModelDeployment", scale["statusReplicasPath"]) == {
        "description": "Replicas that exist, ready or not.",
        "type": "integer",
    }
    selector = at("ModelDeployment", scale["labelSelectorPath"])
    assert selector is not None
    assert selector["type"] == "string"


def test_conditions_are_merged_by_their_type() -> None:
    for kind in ("GPUPool", "ModelDeployment", "QuotaPolicy"):
        conditions = at(kind, "status.conditions")
        assert conditions is not None
        assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == (
            "map",
            ["type"],
        )
        assert "type" in conditions["items"]["required"]


def test_the_schema_s_defaults_are_those_of_the_models() -> None:
    for document in (model_document(), pool_document(), policy_document()):
        filled = with_defaults(schema_of(document["kind"]), dict(document))
        assert parse_resource(filled) == parse_resource(document)
        assert parse_resource(filled).spec == parse_resource(document).spec


def test_a_section_s_default_is_whole() -> None:
    """The API server checks a default against the section's rules before the section's own defaults are in."""
    for path, node in ALL_NODES:
        if isinstance(node.get("default"), dict) and not path.endswith(".status"):
            with_own_defaults = {n for n, part in node["properties"].items() if "default" in part}
            assert set(node["default"]) == with_own_defaults, path


def test_a_new_object_s_status_says_that_nobody_has_judged_it() -> None:
    for kind in ("GPUPool", "ModelDeployment", "QuotaPolicy"):
        assert schema_of(kind)["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_a_full_status_is_one_the_schema_takes() -> None:
    condition = Condition(
        type="Ready",
        status="True",
        reason="Serving",
        message="",
        last_transition_time="t",
        observed_generation=1,
    )
    status = ModelDeploymentStatus(
        conditions=[condition],
        plan=["one"],
        cost_per_hour="7.8",
        predicted=Predicted(kv_tokens=775_216, cost_per_million_tokens="0.45"),
        measured=Measured(kv_tokens=775_216, start_milliseconds=412),
    )
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    schema = schema_of("ModelDeployment")["properties"]["status"]
    assert (
        list(jsonschema.Draft7Validator({**schema, "additionalProperties": False}).iter_errors(written)) == []
    )
    assert set(schema["properties"]) == set(written)


def test_the_reference_names_every_field_condition_and_reason() -> None:
    text = render_reference()
    for path, _ in ALL_NODES:
        _, _, field = path.partition(".")
        if field.startswith(("spec.", "status.")) and not field.endswith("[]"):
            assert f"`{field}`" in text
    assert "| `ScaledToZero` |" in text
    assert "| `MetricsFresh` |" in text
