"""What kube-apiserver does with a resource and its CRD, as far as schemas go: nulls, defaults, bounds, CEL."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from typing import Any

import cel
import jsonschema

from plinth.api.v1alpha1.crdgen import make_crds

Schema = dict[str, Any]


def _matches(_: Any, pattern: str, text: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    # In Go's RE2 `$` is the very end; in Python's `re` it is also the place before a last newline.
    if isinstance(text, str) and not re.search(pattern.removesuffix("$") + r"\Z", text):
        yield jsonschema.ValidationError(f"{text!r} does not match {pattern}")


Validator = jsonschema.validators.extend(jsonschema.Draft7Validator, {"pattern": _matches})  # type: ignore[no-untyped-call]


@functools.cache
def schema_of(kind: str) -> Schema:
    crd = next(crd for crd in make_crds() if crd["spec"]["names"]["kind"] == kind)
    found: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def judge(resource: Any) -> list[tuple[str, str]]:
    """(path, message) of everything the API server would refuse the resource for; strict about unknown fields."""
    schema = schema_of(resource["kind"])
    filled = with_defaults(schema, without_nulls(schema, copy.deepcopy(resource)))
    faults = [
        (".".join(map(str, error.absolute_path)), error.message)
        for error in Validator(strict(schema)).iter_errors(filled)
    ]
    return faults or list(broken_rules(schema, filled))


def without_nulls(schema: Schema, value: Any) -> Any:
    """None of our fields is nullable: the API server drops nulls before it fills in defaults."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {
            k: without_nulls(known.get(k, {}), v) for k, v in value.items() if v is not None or k not in known
        }
    return value


def with_defaults(schema: Schema, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for name, part in schema.get("properties", {}).items():
        if name not in value and "default" in part:
            value[name] = copy.deepcopy(part["default"])
        if name in value:
            value[name] = with_defaults(part, value[name])
    return value


def strict(schema: Schema) -> Schema:
    """The schema with fields it does not know refused, as `kubectl apply` does; metadata is Kubernetes' own."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {
            name: part if name == "metadata" else strict(part) for name, part in schema["properties"].items()
        }
        result["additionalProperties"] = False
    return result


def broken_rules(schema: Schema, value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        if not evaluate(rule["rule"], value):
            yield f"{path}{rule['fieldPath']}".strip("."), rule["message"]
    for name, part in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            yield from broken_rules(part, value[name], f"{path}.{name}")


@functools.cache
def _program(expression: str) -> Any:
    return cel.compile(expression)


def evaluate(expression: str, value: Any) -> bool:
    result = _program(expression).execute({"self": value})
    assert isinstance(result, bool)
    return result
