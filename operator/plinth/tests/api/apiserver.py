"""What kube-apiserver does with a resource and its CRD, as far as schemas go: nulls, defaults, bounds, CEL."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Iterator
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


def judge(resource: Any, old: Any = None) -> list[tuple[str, str]]:
    """(path, message) of everything the API server would refuse the resource for; strict about unknown fields.

    `old` is what the resource replaces; without it the resource is a new one.
    """
    schema = schema_of(resource["kind"])
    filled = with_defaults(schema, without_nulls(schema, copy.deepcopy(resource)))
    faults = [
        (".".join(map(str, error.absolute_path)), error.message)
        for error in Validator(strict(schema)).iter_errors(filled)
    ]
    return faults or list(broken_rules(schema, filled, None if old is None else stored(old)))


def stored(resource: Any) -> Any:
    """The resource as the API server keeps it."""
    schema = schema_of(resource["kind"])
    return with_defaults(schema, without_nulls(schema, copy.deepcopy(resource)))


def without_nulls(schema: Schema, value: Any) -> Any:
    """None of our fields is nullable: the API server drops nulls before it fills in defaults."""
    if isinstance(value, list) and "items" in schema:
        return [without_nulls(schema["items"], item) for item in value]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {
            k: without_nulls(known.get(k, {}), v) for k, v in value.items() if v is not None or k not in known
        }
    return value


def with_defaults(schema: Schema, value: Any) -> Any:
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], item) for item in value]
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
    if "items" in schema:
        result["items"] = strict(schema["items"])
    if "properties" in schema:
        result["properties"] = {
            name: part if name == "metadata" else strict(part) for name, part in schema["properties"].items()
        }
        result["additionalProperties"] = False
    return result


def broken_rules(schema: Schema, value: Any, old: Any, path: str = "") -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        values = {"self": value} | ({} if old is None else {"oldSelf": old})
        if old is None and "oldSelf" in rule["rule"]:
            continue
        if not evaluate(rule["rule"], values):
            said = evaluate(rule["messageExpression"], values) if "messageExpression" in rule else "\n"
            yield f"{path}{rule['fieldPath']}".strip("."), rule["message"] if "\n" in said else said
    for name, part in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            before = old.get(name) if isinstance(old, dict) else None
            yield from broken_rules(part, value[name], before, f"{path}.{name}")
    for position, item in enumerate(value if "items" in schema and isinstance(value, list) else ()):
        yield from broken_rules(schema["items"], item, None, f"{path}[{position}]")


@functools.cache
def _program(expression: str) -> Any:
    return cel.compile(expression)


def evaluate(expression: str, values: dict[str, Any]) -> Any:
    context = cel.Context({name: escaped(value) for name, value in values.items()})
    for name, function in KUBERNETES_FUNCTIONS.items():
        context.add_function(name, function)
    return _program(expression).execute(context)


def escaped(value: Any) -> Any:
    """The value with the fields that CEL reserves words of under the names that Kubernetes gives them."""
    if isinstance(value, dict):
        return {"__namespace__" if k == "namespace" else k: escaped(v) for k, v in value.items()}
    return value


def _format(text: str, values: list[Any]) -> str:
    said = iter(values)
    return re.sub("%[sd]", lambda _: _said(next(said)), text)


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


KUBERNETES_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "format": _format,
    "lastIndexOf": lambda text, part: text.rfind(part),
    "split": lambda text, between: text.split(between),
    "substring": lambda text, start: text[start:],
}
"""What Kubernetes adds to CEL, as far as our rules use it."""
