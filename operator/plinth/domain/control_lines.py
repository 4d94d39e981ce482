"""The lines that the fleet cycle and the gateway exchange over the gateway's control socket. Pure.

One JSON object a line, tagged by `type`: a route table, an access table or an order to shut down goes to the
gateway, a load report comes back. Both ends import this module; neither imports the other. An unknown field is ignored, so
that the two processes may differ by a version; an unknown type is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import msgspec

from plinth.domain.access import AccessTable
from plinth.domain.traffic import LoadReport, RouteTable


class ControlLineError(ValueError):
    """A line that is not one of the messages above; the text says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """Stop accepting, let requests in flight end, leave after at most so long."""

    deadline_seconds: float = 30.0


ControlMessage = RouteTable | AccessTable | LoadReport | Shutdown


class _Tag(msgspec.Struct):
    type: str


_TAG = msgspec.json.Decoder(_Tag)
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "table": msgspec.json.Decoder(RouteTable),
    "access": msgspec.json.Decoder(AccessTable),
    "report": msgspec.json.Decoder(LoadReport),
    "shutdown": msgspec.json.Decoder(Shutdown),
}


def encode_table(table: RouteTable) -> bytes:
    """The line, newline included, that makes the gateway route by this table."""
    return _encode("table", table)


def encode_access(table: AccessTable) -> bytes:
    """The line, newline included, that makes the gateway admit by this table."""
    return _encode("access", table)


def encode_report(report: LoadReport) -> bytes:
    """The line, newline included, that tells the fleet cycle what the gateway saw."""
    return _encode("report", report)


def encode_shutdown(deadline_seconds: float) -> bytes:
    """The line, newline included, that makes the gateway drain and leave within so many seconds."""
    return _encode("shutdown", Shutdown(deadline_seconds=deadline_seconds))


def decode_line(line: bytes) -> ControlMessage:
    """The message in one line, with or without its newline; raises ControlLineError."""
    try:
        tag = _TAG.decode(line).type
        decoder = _DECODERS.get(tag)
        if decoder is None:
            raise ControlLineError(f"unknown type {tag!r}; known are {', '.join(_DECODERS)}")
        message: ControlMessage = decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlLineError(f"not a control line: {error}") from error
    return message


def _encode(tag: str, message: ControlMessage) -> bytes:
    body = {"type": tag} | {item.name: getattr(message, item.name) for item in fields(message)}
    return msgspec.json.encode(body) + b"\n"
