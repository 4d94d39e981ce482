"""A chat completion as a response. Pure."""

from __future__ import annotations

import msgspec

from plinth.gateway.surface.chat import Choice, Said, read_answer
from plinth.gateway.surface.reading import Fields
from plinth.gateway.surface.responses.document import (
    Frame,
    call_item,
    message_item,
    reasoning_item,
    text_part,
)


def whole_response(body: bytes, frame: Frame) -> bytes:
    """The response for a whole chat completion; raises TranslationError."""
    said, choice, chat = read_answer(body)
    output = _items(said, choice, frame)
    return msgspec.json.encode(frame.ended(chat.model, output, choice.finish_reason or "stop", chat.usage))


def _items(said: Said, choice: Choice, frame: Frame) -> list[Fields]:
    items: list[Fields] = []
    thinking = said.thinking()
    if thinking:
        items.append(reasoning_item(frame.item_id("rs", 0), thinking, "completed"))
    calls = said.tool_calls or []
    if said.content or not (calls or thinking):
        logprobs = (choice.logprobs.content if choice.logprobs else None) or []
        content = [text_part(said.content or "", logprobs)]
        status = "incomplete" if choice.finish_reason == "length" else "completed"
        items.append(message_item(frame.item_id("msg", len(items)), content, status))
    for call in calls:
        function, index = call.function, len(items)
        if function is not None:
            items.append(
                call_item(
                    frame.item_id("fc", index),
                    call_id=call.id or frame.item_id("call", index),
                    name=function.name or "",
                    arguments=function.arguments or "{}",
                    status="completed",
                )
            )
    return items
