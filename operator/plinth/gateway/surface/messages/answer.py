"""A chat completion as an answer of the Messages API, and every error in its shape. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.protocol.unreadable import UNREADABLE
from plinth.gateway.surface.chat import ChatUsage, Said, read_answer
from plinth.gateway.surface.reading import Fields

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def whole_message(body: bytes, identity: str) -> bytes:
    """The answer for a whole chat completion; raises TranslationError."""
    said, choice, chat = read_answer(body)
    reason, sequence = stop_of(
        choice.finish_reason or "stop", choice.stop_reason, called=bool(said.tool_calls)
    )
    return msgspec.json.encode(
        {
            "id": f"msg_{identity}",
            "type": "message",
            "role": "assistant",
            "model": chat.model,
            "content": _blocks(said, identity),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_of(chat.usage),
        }
    )


def stop_of(reason: str, stop: int | str | None, *, called: bool) -> tuple[str, str | None]:
    """Why it ended, and by which of the client's stop sequences; llama.cpp does not say which.

    vLLM says `stop` after a call that the client demanded by name, hence `called`.
    """
    if called and reason == "stop":
        return "tool_use", None
    if reason == "stop" and isinstance(stop, str):
        return "stop_sequence", stop
    return _STOPS.get(reason, "end_turn"), None


def usage_of(usage: ChatUsage | None) -> Fields:
    """Tokens. `input_tokens` are those not found in a cache: Anthropic's input is the sum of its three figures."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    cached = usage.cached()
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output(),
    }


def error_document(refusal: Refusal, request_id: str | None) -> bytes:
    """An error's body; `data` of an `error` event, too."""
    kind = _ERRORS.get(refusal.status)
    if kind is None:
        kind = "invalid_request_error" if refusal.status < 500 else "api_error"  # noqa: PLR2004 - the client's fault, or ours
    document: Fields = {"type": "error", "error": {"type": kind, "message": refusal.message}}
    if request_id is not None:
        document["request_id"] = request_id
    return msgspec.json.encode(document)


def tool_id(identity: str, index: int) -> str:
    """For a call that the engine gave no id."""
    return f"toolu_{identity}_{index}"


def _blocks(said: Said, identity: str) -> list[Fields]:
    blocks: list[Fields] = []
    thinking = said.thinking()
    if thinking:
        blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
    calls = said.tool_calls or []
    if said.content or not (calls or thinking):
        blocks.append({"type": "text", "text": said.content or ""})
    for index, call in enumerate(calls):
        function = call.function
        if function is not None:
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call.id or tool_id(identity, index),
                    "name": function.name or "",
                    "input": _input(function.arguments or "{}"),
                }
            )
    return blocks


def _input(arguments: str) -> Any:
    """A call's arguments, which models write as text and may write wrongly; the shape demands an object."""
    try:
        found = msgspec.json.decode(arguments)
    except UNREADABLE:
        found = None
    return found if isinstance(found, dict) else {"invalid_arguments": arguments}
