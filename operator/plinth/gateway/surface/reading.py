"""Reads a request of another dialect field by field, and says which field is wrong. Pure.

A wrong field raises FieldError deep inside a translation and leaves it as one Refusal: the same answer that an
engine's own validation would give, with the path of the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from plinth.gateway.protocol.errors import Refusal, bad_request

T = TypeVar("T")
Fields = dict[str, Any]

_KINDS = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


class FieldError(Exception):
    """A field that cannot be translated."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"`{path}` {text}")
        self.path = path

    def refusal(self) -> Refusal:
        """The answer to the client."""
        return bad_request(str(self), code="invalid_field", param=self.path)


def read_object(body: bytes) -> Fields | Refusal:
    """The request's JSON object."""
    if not body:
        return bad_request("the request has no body; a JSON object is needed", code="missing_body")
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return bad_request(f"the request's body is not JSON: {error}", code="invalid_json")
    except RecursionError:
        return bad_request("the request's JSON is nested too deeply", code="invalid_json")
    return found if isinstance(found, dict) else bad_request("the request must be a JSON object")


def translated(body: bytes, translate: Callable[[Fields], T]) -> T | Refusal:
    """What a translation makes of the request's JSON object, or what is wrong with the request."""
    fields = read_object(body)
    if isinstance(fields, Refusal):
        return fields
    try:
        return translate(fields)
    except FieldError as error:
        return error.refusal()


def expect(value: Any, kind: type[T], path: str) -> T:
    """The value, which must be of this kind. JSON's true is no integer, though Python's is."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FieldError(path, f"must be {_KINDS[kind]}")
    return value


def need(fields: Fields, name: str, kind: type[T], path: str = "") -> T:
    """A field that must be there."""
    where = f"{path}.{name}" if path else name
    if name not in fields:
        raise FieldError(where, "is missing")
    return expect(fields[name], kind, where)


def maybe(fields: Fields, name: str, kind: type[T], path: str = "") -> T | None:
    """A field that may be absent or null."""
    value = fields.get(name)
    return None if value is None else expect(value, kind, f"{path}.{name}" if path else name)


def objects(values: Any, path: str) -> list[tuple[str, Fields]]:
    """The objects of a list, each with its path."""
    return [
        (f"{path}[{index}]", expect(value, dict, f"{path}[{index}]"))
        for index, value in enumerate(expect(values, list, path))
    ]


def copy_fields(source: Fields, target: Fields, names: tuple[str, ...]) -> None:
    """Fields that both dialects write the same way; the engine judges their values."""
    for name in names:
        if source.get(name) is not None:
            target[name] = source[name]
