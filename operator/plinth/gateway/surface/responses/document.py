"""The documents of the Responses API: a response, its items, its usage. Pure.

What the client asked for stands in the response again, with OpenAI's defaults, as its clients expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from plinth.gateway.surface.chat import ChatUsage
from plinth.gateway.surface.reading import Fields

_ECHOED: Fields = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "user": None,
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def echoed(fields: Fields) -> Fields:
    """What of a request stands in its response."""
    return {name: fields[name] for name in _ECHOED if fields.get(name) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is the same in every document of one request."""

    identity: str
    """Unique; ids are made of it."""
    created: int
    """Unix seconds."""
    asked: Fields
    """The client's fields that stand in the response again; not its input, which may be large."""

    def response(
        self, model: str, output: list[Fields], *, status: str = "in_progress", **more: Any
    ) -> Fields:
        """A response; `more` replaces the fields that are null until the end."""
        document: Fields = {
            "id": f"resp_{self.identity}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
        }
        return document | _ECHOED | self.asked | more

    def ended(self, model: str, output: list[Fields], reason: str, usage: ChatUsage | None) -> Fields:
        """A response that ended in peace, whole or cut short."""
        cut = _INCOMPLETE.get(reason)
        return self.response(
            model,
            output,
            status="incomplete" if cut else "completed",
            incomplete_details={"reason": cut} if cut else None,
            usage=_usage(usage),
        )

    def item_id(self, prefix: str, index: int) -> str:
        """An item's id: `prefix` tells its kind."""
        return f"{prefix}_{self.identity}_{index}"


def text_part(text: str, logprobs: list[msgspec.Raw]) -> Fields:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def message_item(item_id: str, content: list[Fields], status: str) -> Fields:
    """What the model says."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def reasoning_item(item_id: str, text: str, status: str) -> Fields:
    """What it thinks before."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(item_id: str, *, call_id: str, name: str, arguments: str, status: str) -> Fields:
    """A function that it wants called."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _usage(usage: ChatUsage | None) -> Fields | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached(), "cache_write_tokens": 0},
        "output_tokens": usage.output(),
        "output_tokens_details": {"reasoning_tokens": usage.thought()},
        "total_tokens": usage.prompt_tokens + usage.output(),
    }
