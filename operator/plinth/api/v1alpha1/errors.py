"""Says what is wrong with a resource so that its writer can mend it: the field, the rule, and what would work.

Pydantic finds the faults; here they become sentences in the words of the YAML. Nothing that may be a secret
is repeated: neither what stands under an unknown field, nor under credentials or an argument such as a key.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]

UNKNOWN_FIELD = "unknown field"
_GOT_LIMIT = 80
_SECRET = re.compile(r"(^|[^a-z])(key|token|secret|password|credentials)", re.IGNORECASE)
_PATTERN_WORDS: dict[str, tuple[str, str]] = {
    "name": ("must be lowercase letters, digits and dashes, with a letter or digit at both ends", "qwen-32b"),
    "pool": ("must be lowercase letters, digits and dashes, with a letter or digit at both ends", "h200"),
    "namespace": (
        "must be lowercase letters, digits and dashes, with a letter or digit at both ends",
        "team-a",
    ),
    "key": ("must be letters, digits, '-', '_' and '.', not starting with '-' or '.'", "token"),
    "revision": ("must be letters, digits, '-', '_', '.' and '/', starting with a letter or digit", "main"),
    "servedName": (
        "must be letters, digits, '-', '_', '.', ':' and '/', starting with a letter or digit",
        "chat",
    ),
    "accelerator": ("must be letters, digits, '-', '_' and '.', starting with a letter or digit", "H200"),
    "claim": (
        "must be lowercase letters, digits, dashes and dots, with a letter or digit at both ends",
        "models",
    ),
    "memory": ("must be a whole number with a unit, Mi, Gi or Ti", "64Gi"),
    "version": ("must be three numbers with dots between them", "2.57.0"),
    "costPerAcceleratorHour": ("must be a decimal number in quotes, with at most 6 decimals", "2.50"),
}


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """One fault of a resource. Printed: `spec.scaling.maxReplicas: must be at least 1, got 0; …`."""

    path: str
    """The field as in the YAML, from the top of the resource; empty for the resource as a whole."""
    rule: str
    got: str = ""
    """What stands there, shortened; empty where nothing does or where it may be a secret."""
    remedy: str
    location: Location = ()
    """The same path in steps, to find the line with."""

    def __str__(self) -> str:
        if self.rule == UNKNOWN_FIELD:
            return f"unknown field {self.path}; {self.remedy}"
        got = f", got {self.got}" if self.got else ""
        return f"{self.path}: {self.rule}{got}; {self.remedy}" if self.path else f"{self.rule}; {self.remedy}"


class InvalidResourceError(ValueError):
    """A resource that breaks rules; it holds every fault found, in the order of the fields."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def explain(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """Every fault that pydantic found in a resource of this model, in the user's words."""
    return [fault for details in error.errors(include_url=False) for fault in _explain_one(details, model)]


def path_of(location: Location) -> str:
    """The steps as a path: `spec.scaling.maxReplicas`, `items[2].name`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that a slip of the fingers would turn into the word, or None; the case does not matter."""
    by_lower = {choice.lower().replace("_", ""): choice for choice in choices}
    wanted = word.lower().replace("_", "").replace("-", "")
    found = difflib.get_close_matches(wanted, by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def unknown_choice(*, path: str, location: Location, word: Any, choices: Iterable[str]) -> FieldError:
    """A word that is not among the allowed ones; the nearest is proposed."""
    allowed = list(choices)
    near = nearest(word, allowed) if isinstance(word, str) else None
    rule = f"must be {allowed[0]}" if len(allowed) == 1 else f"must be one of {', '.join(allowed)}"
    remedy = f"did you mean {near}?" if near else f"write {allowed[0]}"
    return FieldError(path=path, rule=rule, got=shown(word), remedy=remedy, location=location)


def shown(value: Any) -> str:
    """A value as the YAML's writer would know it, shortened; a mapping or list by its kind alone."""
    if isinstance(value, dict | BaseModel):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _GOT_LIMIT else text[: _GOT_LIMIT - 1] + "…"


def _explain_one(details: ErrorDetails, model: type[BaseModel]) -> Iterator[FieldError]:
    location = tuple(step for step in details["loc"] if step != "[key]")
    if details["type"] == "plinth_rule":
        yield from _rule_faults(details, location)
    elif details["type"] == "extra_forbidden":
        holder = _type_at(model, location[:-1])
        yield unknown_field(location, field_names(holder) if _is_model(holder) else [])
    else:
        explainer = _EXPLAINERS.get(details["type"], _plain)
        rule, remedy = explainer(_Fault(details, location, _field_at(model, location)))
        got = "" if details["type"] == "missing" or _may_be_secret(location) else shown(details["input"])
        yield FieldError(path=path_of(location), rule=rule, got=got, remedy=remedy, location=location)


def _rule_faults(details: ErrorDetails, location: Location) -> Iterator[FieldError]:
    for broken in details["ctx"]["details"]:
        where = (*location, *broken["field"].split("."))
        given = _value_at(details["input"], broken["field"])
        got = "" if given is None or _may_be_secret(where) or isinstance(given, dict | list) else shown(given)
        path = path_of(where)
        yield FieldError(path=path, rule=broken["rule"], got=got, remedy=broken["remedy"], location=where)


def _value_at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _may_be_secret(location: Location) -> bool:
    if "credentials" in location:
        return True
    return "args" in location and bool(_SECRET.search(str(location[-1])))


def unknown_field(location: Location, fields: Sequence[str]) -> FieldError:
    """A field that is none of those at its place; the nearest is proposed."""
    *parent, name = location
    near = nearest(str(name), fields)
    remedy = (
        f"did you mean {path_of((*parent, near))}?"
        if near
        else f"the fields of {path_of(tuple(parent)) or 'a resource'} are {', '.join(fields)}"
    )
    return FieldError(path=path_of(location), rule=UNKNOWN_FIELD, remedy=remedy, location=location)


def field_names(model: type[BaseModel]) -> list[str]:
    """The fields as on the wire, in their order."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _is_model(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _type_at(model: Any, location: Location) -> Any:
    for step in location:
        if _is_model(model):
            field = _field_named(model, step)
            model = plain_type(field.annotation) if field else None
        else:
            arguments = get_args(model)
            model = plain_type(arguments[-1]) if arguments else None
    return model


def _field_at(model: type[BaseModel], location: Location) -> FieldInfo | None:
    holder = _type_at(model, location[:-1])
    return _field_named(holder, location[-1]) if _is_model(holder) and location else None


def _field_named(model: type[BaseModel], step: str | int) -> FieldInfo | None:
    for name, field in model.model_fields.items():
        if (field.alias or name) == step:
            return field
    return None


def plain_type(annotation: Any) -> Any:
    """The type without `| None` and without its constraints."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in {Union, types.UnionType}:
        return plain_type(next(kind for kind in get_args(annotation) if kind is not type(None)))
    return annotation


@dataclass(frozen=True)
class _Fault:
    details: ErrorDetails
    location: Location
    field: FieldInfo | None

    @property
    def given(self) -> Any:
        return self.details["input"]

    def bound(self, name: str) -> int | None:
        """The field's `ge` or `le`."""
        bounds = (
            getattr(constraint, name, None) for constraint in (self.field.metadata if self.field else [])
        )
        return next((int(bound) for bound in bounds if bound is not None), None)


def _missing(fault: _Fault) -> tuple[str, str]:
    meaning = " ".join((fault.field.description or "").split()) if fault.field else ""
    name = fault.location[-1]
    return "is required", f"add {name}: {meaning}" if meaning else f"add {name}"


def _range(fault: _Fault) -> tuple[str, str]:
    least, most = fault.bound("ge"), fault.bound("le")
    rule = f"must be at least {least}" if "greater" in fault.details["type"] else f"must be at most {most}"
    return rule, f"anything from {least} to {most} works"


def _whole_number(fault: _Fault) -> tuple[str, str]:
    text = fault.given.strip() if isinstance(fault.given, str) else fault.given
    if isinstance(text, float) and text.is_integer():
        return "must be a whole number", f"write {int(text)}"
    if isinstance(text, str) and text.lstrip("-").isdecimal():
        return "must be a whole number", f"write {text} without quotes"
    least = fault.bound("ge")
    return "must be a whole number", f"write a number such as {1 if least is None else max(least, 1)}"


def _string(fault: _Fault) -> tuple[str, str]:
    if isinstance(fault.given, dict | list):
        return "must be a string", "write one value here"
    if _may_be_secret(fault.location):
        return "must be a string", "write it in quotes"
    text = {True: "true", False: "false"}.get(fault.given) if isinstance(fault.given, bool) else fault.given
    return "must be a string", f'write "{text}", with the quotes'


def _mapping(fault: _Fault) -> tuple[str, str]:
    kind = plain_type(fault.field.annotation) if fault.field else None
    if _is_model(kind):
        return "must be a mapping", f"write its fields below it: {', '.join(field_names(kind))}"
    return "must be a mapping", "write entries below it, each as name: value"


def _sequence(_: _Fault) -> tuple[str, str]:
    return "must be a list", "write entries below it, each after a dash"


def _switch(_: _Fault) -> tuple[str, str]:
    return "must be true or false", "write one of the two, without quotes"


def _choice(fault: _Fault) -> tuple[str, str]:
    kind = plain_type(fault.field.annotation) if fault.field else None
    choices: list[str] = []
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [str(member.value) for member in kind]
    elif get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
    found = unknown_choice(path="", location=(), word=fault.given, choices=choices)
    return found.rule, found.remedy


def _too_long(fault: _Fault) -> tuple[str, str]:
    most = fault.details["ctx"]["max_length"]
    unit = "characters" if fault.details["type"].startswith("string") else "entries"
    return f"must have at most {most} {unit}", f"shorten it to {most} {unit}"


def _too_short(fault: _Fault) -> tuple[str, str]:
    least = fault.details["ctx"]["min_length"]
    return (
        f"must have at least {least} character{'s' if least > 1 else ''}",
        "write it out, or remove the field",
    )


def _pattern(fault: _Fault) -> tuple[str, str]:
    rule, example = _PATTERN_WORDS.get(
        str(fault.location[-1]), (f"must match {fault.details['ctx']['pattern']}", "")
    )
    slug = re.sub(r"[^a-z0-9]+", "-", str(fault.given).lower()).strip("-")[:63].strip("-")
    works = slug if "lowercase" in rule and slug else example
    return rule, f"{json.dumps(works)} would work" if works else "rewrite it so that it matches"


def _plain(fault: _Fault) -> tuple[str, str]:
    text = fault.details["msg"].removeprefix("Input should ")
    return f"must {text}" if text != fault.details["msg"] else text, "see docs/reference/api.md"


_EXPLAINERS: dict[str, Callable[[_Fault], tuple[str, str]]] = {
    "missing": _missing,
    "greater_than_equal": _range,
    "less_than_equal": _range,
    "int_type": _whole_number,
    "int_from_float": _whole_number,
    "int_parsing_size": _whole_number,
    "string_type": _string,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "dict_type": _mapping,
    "list_type": _sequence,
    "bool_type": _switch,
    "enum": _choice,
    "literal_error": _choice,
    "string_too_long": _too_long,
    "too_long": _too_long,
    "string_too_short": _too_short,
    "string_pattern_mismatch": _pattern,
}
