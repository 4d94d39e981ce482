"""From a pydantic model to a structural OpenAPI schema, the form of JSON schema that Kubernetes takes.

Nothing is referred to: every part is written where it stands. A field that may be absent is just not required;
there is no null. Defaults of whole sections are written out field by field, since the API server checks a
default against the section's rules before it fills the section's own defaults in.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from plinth.api.v1alpha1.errors import plain_type
from plinth.api.v1alpha1.meta import ObjectMeta, Observed
from plinth.api.v1alpha1.rule import Rule, Transition
from plinth.api.v1alpha1.rules import RULES, TRANSITIONS

Schema = dict[str, Any]

COMPUTED = "x-plinth-computed"
"""Marks a field whose default depends on other fields, and says how; such a default is not in the schema."""

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
)


def structural_schema(model: type[BaseModel]) -> Schema:
    """The schema of a model with everything below it, rules included, in the order of the fields."""
    document = model.model_json_schema(by_alias=True)
    definitions = document.get("$defs", {}) | {model.__name__: document}
    return _Renderer(definitions).of_model(model)


class _Renderer:
    """Renders one model; pydantic's own schema gives the leaves, the classes give structure and rules."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def of_model(self, model: type[BaseModel]) -> Schema:
        if model is ObjectMeta:
            return _metadata_schema(self._definitions["ObjectMeta"])
        source = self._definitions[model.__name__]
        reported = issubclass(model, Observed)
        properties = {
            field.alias or name: self._of_field(
                field, source["properties"][field.alias or name], reported=reported
            )
            for name, field in model.model_fields.items()
        }
        for name, computed in model.model_computed_fields.items():
            properties[name] = {"description": computed.description, "type": "string"}
        schema: Schema = {"description": _one_line(source["description"]), "type": "object"}
        if source.get("required"):
            schema["required"] = source["required"]
        schema["properties"] = properties
        rules = [_validation(rule) for rule in RULES.get(model.__name__, ())]
        rules += [_transition(rule) for rule in TRANSITIONS.get(model.__name__, ())]
        return schema | ({"x-kubernetes-validations": rules} if rules else {})

    def _of_field(self, field: FieldInfo, source: Schema, *, reported: bool) -> Schema:
        kind = plain_type(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            schema = self.of_model(kind)
        else:
            schema = self._of_leaf(source, kind)
        if kind is not ObjectMeta and field.description:
            schema["description"] = _one_line(field.description) + _computed_sentence(field)
        default = None if reported else _default(field)
        schema.pop("default", None)
        return schema if default is None else schema | {"default": default}

    def _of_leaf(self, source: Schema, kind: Any) -> Schema:
        branches = [branch for branch in source.get("anyOf", []) if branch != {"type": "null"}]
        merged = {name: value for part in (*branches, source) for name, value in part.items()}
        if "$ref" in merged:
            merged |= {**self._definitions[merged["$ref"].rpartition("/")[2]], **merged}
        if "const" in merged:
            merged["enum"] = [merged["const"]]
        schema = {name: merged[name] for name in _KEPT if name in merged}
        schema |= {name: value for name, value in merged.items() if name.startswith("x-kubernetes-")}
        if merged.get("type") == "array":
            schema["items"] = self._of_item(merged["items"], kind)
        if isinstance(merged.get("additionalProperties"), dict):
            schema["additionalProperties"] = self._of_leaf(merged["additionalProperties"], None)
        return schema

    def _of_item(self, source: Schema, kind: Any) -> Schema:
        item = plain_type(kind.__args__[0])
        if isinstance(item, type) and issubclass(item, BaseModel):
            return self.of_model(item)
        return self._of_leaf(source, item)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _validation(rule: Rule) -> Schema:
    schema = {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}
    words = rule.message_expression
    return schema | ({"messageExpression": words} if words else {})


def _transition(rule: Transition) -> Schema:
    return {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}


def _metadata_schema(source: Schema) -> Schema:
    """Kubernetes owns metadata; a CRD may bound the name and say nothing else, not even a description."""
    name = source["properties"]["name"]
    return {"type": "object", "properties": {"name": {key: name[key] for key in _KEPT if key in name}}}


def computed_default(field: FieldInfo) -> str | None:
    """How the default follows from other fields, in words; None where it does not."""
    extra = field.json_schema_extra
    return str(extra[COMPUTED]) if isinstance(extra, dict) and COMPUTED in extra else None


def _computed_sentence(field: FieldInfo) -> str:
    words = computed_default(field)
    return f" Default: {words}." if words else ""


def _default(field: FieldInfo) -> Any:
    """The default as JSON; None for none, for an empty collection, and for one that depends on other fields."""
    if field.is_required() or computed_default(field):
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Observed):
        return None
    if isinstance(value, BaseModel):
        return _section_defaults(type(value))
    if isinstance(value, Enum):
        return value.value
    return None if value in ({}, []) else value


def _section_defaults(model: type[BaseModel]) -> Schema:
    defaults = {field.alias or name: _default(field) for name, field in model.model_fields.items()}
    return {name: value for name, value in defaults.items() if value is not None}
