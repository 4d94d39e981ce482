"""The chart says what is there: the API's own CRDs, explained values, metrics that exist."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import pytest
import yaml

from plinth.runtime.operator_options import OperatorOptions
from plinth.tests.house.documents import ROOT

CHART = ROOT / "charts/plinth"
CRDS = sorted(path.name for path in (ROOT / "crds").glob("*.yaml"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, or the shared one that it refers to."""
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else schema


def properties(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every property and list entry of the schema, with its path."""
    for name, unresolved in schema.get("properties", {}).items():
        found = resolve(unresolved)
        yield f"{path}{name}", found
        yield from properties(found, f"{path}{name}.")
        if "items" in found:
            yield f"{path}{name}[]", resolve(found["items"])
            yield from properties(resolve(found["items"]), f"{path}{name}[].")


def value_paths(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every value that has a default."""
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, Mapping):
            yield from value_paths(value, f"{path}{name}.")


PROPERTIES = dict(properties(SCHEMA))


@pytest.mark.parametrize("path", PROPERTIES)
def test_every_value_is_explained(path: str) -> None:
    description = PROPERTIES[path].get("description", "")
    assert description.endswith(".")
    assert len(description.split()) > 1


def test_every_value_with_a_default_is_in_the_schema_and_the_other_way_round() -> None:
    kubernetes_own = ("resources.", "Resources.", "podSecurityContext.", "labels.", "annotations.")
    defaults = {each for each in value_paths(VALUES) if not any(part in each for part in kubernetes_own)}
    asked = {
        each for each in PROPERTIES if "[]" not in each and not any(part in each for part in kubernetes_own)
    }
    assert defaults == asked - {"global"}


@pytest.mark.parametrize("name", CRDS)
def test_the_chart_installs_the_api_as_it_is(name: str) -> None:
    ours = (CHART / "files/crds" / name).read_text(encoding="utf-8")
    assert ours == (ROOT / "crds" / name).read_text(encoding="utf-8"), "run: make crds"


def test_the_chart_has_no_crd_of_the_past() -> None:
    assert sorted(path.name for path in (CHART / "files/crds").iterdir()) == CRDS


def test_chart_and_program_have_one_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    code = (ROOT / "operator/plinth/__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{about["appVersion"]}"' in code
    assert about["version"] == about["appVersion"]


def test_the_ports_that_the_chart_names_are_where_the_operator_listens() -> None:
    template = (CHART / "templates/operator/deployment.yaml").read_text(encoding="utf-8")
    named = {name: int(port) for name, port in re.findall(r"\{name: (\w+), containerPort: (\d+)\}", template)}
    assert named == {
        name: next(each.default for each in fields(OperatorOptions) if each.name == f"{name}_port")
        for name in ("metrics", "webhook", "plan")
    }
