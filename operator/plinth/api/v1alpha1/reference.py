"""Renders docs/reference/api.md from the models: every field, condition and reason with its sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from plinth.api.v1alpha1.errors import plain_type
from plinth.api.v1alpha1.gpupool import GPUPool
from plinth.api.v1alpha1.meta import API_VERSION, ObjectMeta
from plinth.api.v1alpha1.modeldeployment import ModelDeployment
from plinth.api.v1alpha1.quotapolicy import QuotaPolicy
from plinth.api.v1alpha1.reasons import CONDITION_SENTENCES, SENTENCES
from plinth.api.v1alpha1.rules import RULES, TRANSITIONS
from plinth.api.v1alpha1.schema import Schema, computed_default, structural_schema

_INTRODUCTION = f"""\
# API reference: `{API_VERSION}`

Made from the models in `operator/plinth/api`; a test keeps it in step. The same files work in a folder
(`plinth up DIR`) and in a cluster (`kubectl apply`). An unknown field is refused, an absent one takes its
default, and a null is the same as absence. Sizes are whole numbers with the unit in the field's name.
"""


def render_reference() -> str:
    """The reference as Markdown."""
    parts = [
        _INTRODUCTION,
        *_kind(ModelDeployment, "Namespaced, short name `mdl`, category `plinth`."),
        *_kind(GPUPool, "Cluster-wide, short name `gpool`, category `plinth`."),
        *_kind(QuotaPolicy, "Namespaced, short name `qpol`, category `plinth`."),
        "## Conditions\n\nAll are set on the first pass; `Unknown` until known.\n",
        _table(("type", "what it says"), ((f"`{kind}`", text) for kind, text in CONDITION_SENTENCES.items())),
        "## Reasons\n",
        _table(("reason", "what it says"), ((f"`{reason}`", text) for reason, text in SENTENCES.items())),
    ]
    return "\n".join(parts)


def _kind(model: type[BaseModel], scope: str) -> Iterator[str]:
    schema = structural_schema(model)
    yield f"## {model.__name__}\n\n{schema['description']} {scope}\n"
    for section in ("spec", "status"):
        part = plain_type(model.model_fields[section].annotation)
        yield f"### {model.__name__} {section}\n"
        header = ("field", "type", "default", "meaning")
        yield _table(header, _rows(part, schema["properties"][section], prefix=section))
        rules = list(_rules(part, section))
        if rules:
            yield "Rules between fields:\n"
            yield "\n".join(f"- {rule}" for rule in rules) + "\n"


def _rows(model: type[BaseModel], schema: Schema, *, prefix: str) -> Iterator[tuple[str, ...]]:
    for name, properties in schema["properties"].items():
        field = next((f for key, f in model.model_fields.items() if (f.alias or key) == name), None)
        path = f"{prefix}.{name}"
        default = _default_text(field, properties, required=name in schema.get("required", ()))
        yield f"`{path}`", _type_text(properties), default, properties["description"]
        below = _model_below(field)
        if below is not None and "items" in properties:
            yield from _rows(below, properties["items"], prefix=f"{path}[]")
        elif below is not None:
            yield from _rows(below, properties, prefix=path)


def _model_below(field: FieldInfo | None) -> type[BaseModel] | None:
    kind: Any = plain_type(field.annotation) if field else None
    if getattr(kind, "__origin__", None) is list:
        kind = plain_type(kind.__args__[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not ObjectMeta:
        return kind
    return None


def _default_text(field: FieldInfo | None, schema: Schema, *, required: bool) -> str:
    if required:
        return "required"
    computed = computed_default(field) if field else None
    if computed:
        return computed
    if "default" not in schema or isinstance(schema["default"], dict):
        return ""
    return f"`{json.dumps(schema['default'])}`"


def _type_text(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema["type"] == "integer":
        return _bounded("integer", schema.get("minimum"), schema.get("maximum"))
    if schema["type"] == "string":
        return _bounded("string", None, schema.get("maxLength"), unit=" characters")
    if schema["type"] == "array":
        return f"list, at most {schema['maxItems']}"
    if "additionalProperties" in schema:
        return f"map of strings, at most {schema['maxProperties']}"
    return "section"


def _bounded(kind: str, least: int | None, most: int | None, unit: str = "") -> str:
    if least is not None and most is not None:
        return f"{kind}, {least} to {most}{unit}"
    return kind if most is None else f"{kind}, at most {most}{unit}"


def _rules(model: type[BaseModel], path: str) -> Iterator[str]:
    for rule in RULES.get(model.__name__, ()):
        yield f"`{path}.{rule.field}` {rule.must}"
    for edit in TRANSITIONS.get(model.__name__, ()):
        yield f"`{path}.{edit.field}` {edit.must}"
    for name, field in model.model_fields.items():
        below = _model_below(field)
        if below is not None:
            yield from _rules(below, f"{path}.{field.alias or name}")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )
