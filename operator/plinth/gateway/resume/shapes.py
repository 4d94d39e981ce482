"""The JSON of a stream's events, so far as it is decoded."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct):
    """Tokens of a whole answer, by its engine."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class FunctionPart(msgspec.Struct, omit_defaults=True):
    """A piece of a call's name and arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolCallPart(msgspec.Struct, omit_defaults=True):
    """A piece of one tool call."""

    index: int = -1
    """Counts from 0, so that it is left out only where the engine did."""
    id: str | None = None
    type: str | None = None
    function: FunctionPart | None = None


class Choice(msgspec.Struct):
    """The one choice of an event."""

    index: int = 0
    text: str | None = None
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None


class Event(msgspec.Struct):
    """An event of chat or completions."""

    choices: list[Choice]
    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    usage: Usage | None = None


class ErrorEvent(msgspec.Struct):
    """What engines send when they fail in the middle of an answer."""

    error: msgspec.Raw


class LaterChoice(msgspec.Struct):
    """What the choice of a later replica's event may carry."""

    text: str | None = None
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class LaterEvent(msgspec.Struct):
    """An event of a replica at which a stream goes on."""

    choices: list[LaterChoice] = []
    prompt_token_ids: list[int] | None = None
    usage: Usage | None = None
    error: msgspec.Raw | None = None
