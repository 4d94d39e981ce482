"""From the bytes of a YAML file to documents that remember on which line each field stands.

Built from YAML's events one by one, not by PyYAML's constructors: so depth, size and what aliases add up to
are bounded while reading, keys written twice are found, and no tag can make an object. Values are what JSON
knows; dates stay the text they are, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from plinth.api.v1alpha1.errors import FieldError, Location, path_of

MAX_DEPTH = 32
"""Levels of nesting; a resource has about five."""
MAX_VALUES = 20_000
"""Values of one file, those repeated by aliases counted each time."""
MAX_DOCUMENTS = 1_000

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {None, "!", *(_TAG + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq"))}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BrokenYAMLError(ValueError):
    """The file cannot be read as YAML; `line` is counted from 1."""

    def __init__(self, *, line: int, rule: str, remedy: str) -> None:
        self.line, self.rule, self.remedy = line, rule, remedy
        super().__init__(f"line {line}: {rule}; {remedy}")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a file."""

    value: Any
    line: int
    """Where it starts, counted from 1."""
    lines: Mapping[Location, int]
    repeated: tuple[FieldError, ...] = ()
    """Keys written twice; the first of each is what `value` holds."""

    def line_of(self, location: Location) -> int:
        """The line of a field, or of the nearest one around it that is written."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.lines:
                return self.lines[location[:length]]
        return self.line


def read_documents(data: bytes) -> list[Document]:
    """The documents of a YAML file, empty ones left out. Raises BrokenYAMLError."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BrokenYAMLError(line=line, rule="must be UTF-8 text", remedy="save it as UTF-8") from None
    try:
        return list(_documents(yaml.parse(text, Loader=_LOADER)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        rule = f"must be YAML: {error.problem or error.context}"
        remedy = "look for a missing space, quote or bracket there or just above"
        last = max(1, len(text.splitlines()))  # where the text ends too soon, the mark is a line too far
        raise BrokenYAMLError(
            line=min(mark.line + 1 if mark else 1, last), rule=rule, remedy=remedy
        ) from None
    except yaml.YAMLError as error:
        rule = f"must be YAML: {str(error).splitlines()[0]}"
        raise BrokenYAMLError(line=1, rule=rule, remedy="remove what is not text") from None


@dataclass
class _Frame:
    """A mapping or list that is being filled."""

    value: dict[str, Any] | list[Any]
    location: Location
    anchor: str | None
    values_before: int
    key: str | None = None
    skips: bool = False
    """The key at hand was written before: its value is read and dropped."""


@dataclass
class _Reading:
    """All that is known while the events of a file pass by."""

    frames: list[_Frame] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Each anchor's value, and of how many values it consists."""
    lines: dict[Location, int] = field(default_factory=dict)
    repeated: list[FieldError] = field(default_factory=list)
    values: int = 0
    line: int = 1
    root: Any = None


def _documents(events: Iterable[yaml.Event]) -> Iterator[Document]:
    reading = _Reading()
    count = 0
    for event in events:
        reading.line = event.start_mark.line + 1 if event.start_mark else reading.line
        if isinstance(event, yaml.DocumentStartEvent):
            reading = _Reading(values=reading.values, line=reading.line)
            start = reading.line
        elif isinstance(event, yaml.DocumentEndEvent):
            count += 1
            if count > MAX_DOCUMENTS:
                raise _too_much(reading, f"must hold at most {MAX_DOCUMENTS} documents")
            if reading.root is not None:
                first = min(reading.lines.values(), default=start)
                yield Document(
                    value=reading.root, line=first, lines=reading.lines, repeated=tuple(reading.repeated)
                )
        elif isinstance(event, yaml.NodeEvent):
            _take_node(reading, event)
        elif isinstance(event, yaml.CollectionEndEvent):
            _end_collection(reading)


def _too_much(reading: _Reading, rule: str) -> BrokenYAMLError:
    return BrokenYAMLError(line=reading.line, rule=rule, remedy="split it into several files")


def _take_node(reading: _Reading, event: yaml.NodeEvent) -> None:
    _count(reading, 1)
    tag = getattr(event, "tag", None)
    if tag not in _KNOWN_TAGS:
        remedy = "remove the tag; plain values are all that a resource needs"
        raise BrokenYAMLError(line=reading.line, rule=f"must not use the tag {tag}", remedy=remedy)
    if _awaits_key(reading):
        _take_key(reading, event)
    elif isinstance(event, yaml.ScalarEvent):
        value = _scalar(reading, event)
        if event.anchor:
            reading.anchors[event.anchor] = (value, 1)
        _place(reading, value)
    elif isinstance(event, yaml.AliasEvent):
        _place(reading, _aliased(reading, event))
    else:
        _begin_collection(reading, event)


def _count(reading: _Reading, more: int) -> None:
    reading.values += more
    if reading.values > MAX_VALUES:
        raise _too_much(
            reading, f"must hold at most {MAX_VALUES} values, those behind aliases counted each time"
        )


def _awaits_key(reading: _Reading) -> bool:
    return (
        bool(reading.frames) and isinstance(reading.frames[-1].value, dict) and reading.frames[-1].key is None
    )


def _take_key(reading: _Reading, event: yaml.NodeEvent) -> None:
    frame = reading.frames[-1]
    if not isinstance(event, yaml.ScalarEvent):
        remedy = "write a field's name before the colon"
        raise BrokenYAMLError(line=reading.line, rule="must have plain text as keys", remedy=remedy)
    if event.value == "<<" and event.implicit[0]:
        remedy = "write the fields out"
        raise BrokenYAMLError(line=reading.line, rule="must not use the merge key <<", remedy=remedy)
    frame.key = event.value
    location = (*frame.location, event.value)
    frame.skips = location in reading.lines
    if frame.skips:
        first = reading.lines[location]
        reading.repeated.append(
            FieldError(
                path=path_of(location),
                rule="must be written once",
                remedy=f"remove this one or the one on line {first}",
                location=(*location, reading.line),
            )
        )
        reading.lines[*location, reading.line] = reading.line
    else:
        reading.lines[location] = reading.line


def _location(reading: _Reading) -> Location:
    if not reading.frames:
        return ()
    frame = reading.frames[-1]
    step = len(frame.value) if isinstance(frame.value, list) else frame.key
    if frame.skips or step is None:
        return (*frame.location, "<<repeated>>", reading.line)
    return (*frame.location, step)


def _place(reading: _Reading, value: Any) -> None:
    if not reading.frames:
        reading.root = value
        return
    frame = reading.frames[-1]
    if isinstance(frame.value, list):
        frame.value.append(value)
        return
    if not frame.skips and frame.key is not None:
        frame.value[frame.key] = value
    frame.key, frame.skips = None, False


def _begin_collection(reading: _Reading, event: yaml.NodeEvent) -> None:
    if len(reading.frames) >= MAX_DEPTH:
        raise _too_much(reading, f"must be nested at most {MAX_DEPTH} levels deep")
    location = _location(reading)
    reading.lines.setdefault(location, reading.line)
    empty: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
    reading.frames.append(_Frame(empty, location, event.anchor, reading.values))


def _end_collection(reading: _Reading) -> None:
    frame = reading.frames.pop()
    if frame.anchor:
        reading.anchors[frame.anchor] = (frame.value, reading.values - frame.values_before + 1)
    _place(reading, frame.value)


def _aliased(reading: _Reading, event: yaml.AliasEvent) -> Any:
    if event.anchor not in reading.anchors:
        remedy = f"write &{event.anchor} before its first use, and not inside itself"
        raise BrokenYAMLError(line=reading.line, rule=f"must define the alias *{event.anchor}", remedy=remedy)
    value, size = reading.anchors[event.anchor]
    _count(reading, size)
    return value


class _Scalars(SafeConstructor, Resolver):
    """YAML 1.1's own reading of plain values, as kubectl's."""


_SCALARS = _Scalars()


def _scalar(reading: _Reading, event: yaml.ScalarEvent) -> Any:
    tag = event.tag
    if tag in {None, "!"}:
        tag = _SCALARS.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
    sexagesimal = tag == _TAG + "int" and ":" in event.value  # 12:30 is text to every other YAML reader
    if sexagesimal or tag not in {_TAG + kind for kind in ("int", "float", "bool", "null")}:
        return event.value
    try:
        return _SCALARS.construct_object(yaml.ScalarNode(tag, event.value))
    except (ValueError, KeyError):
        kind = tag.removeprefix(_TAG)
        raise BrokenYAMLError(
            line=reading.line, rule=f"must hold a value of type {kind} here", remedy="put text in quotes"
        ) from None
