"""The input of a Responses request as the messages of a chat. Pure.

Items lie flat in a row; a chat's message holds its own tool calls and thinking. So an assistant's thoughts, words
and calls that follow each other become one message.
"""

from __future__ import annotations

from typing import Any

from plinth.gateway.surface.reading import FieldError, Fields, copy_fields, maybe, need, objects


def messages_of(given: Any, instructions: str | None) -> list[Fields]:
    """The chat's messages; raises FieldError."""
    talk = _Conversation(instructions)
    if isinstance(given, str):
        talk.messages.append({"role": "user", "content": given})
    else:
        for path, item in objects(given, "input"):
            talk.add(item, path)
    if not talk.messages:
        raise FieldError("input", "must hold at least one message")
    head = [{"role": "system", "content": "\n\n".join(talk.system)}] if talk.system else []
    return head + talk.messages


class _Conversation:
    """Grows item by item."""

    def __init__(self, instructions: str | None) -> None:
        self.system = [instructions] if instructions else []
        """What stands at the very beginning, where many templates want all of it in one message."""
        self.messages: list[Fields] = []

    def add(self, item: Fields, path: str) -> None:
        kind = maybe(item, "type", str, path) or "message"
        if kind == "message":
            self._add_message(item, path)
        elif kind == "function_call":
            self._assistant().setdefault("tool_calls", []).append(_call(item, path))
        elif kind == "function_call_output":
            self._add_output(item, path)
        elif kind == "reasoning":
            message = self._assistant()
            # vLLM reads the first name, llama.cpp the second.
            text = message.get("reasoning", "") + _thoughts(item, path)
            message["reasoning"] = message["reasoning_content"] = text
        else:
            raise FieldError(f"{path}.type", f"{kind!r} cannot be sent to a model here")

    def _assistant(self) -> Fields:
        """The assistant's message that is going on, or a new one."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant":
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        return last

    def _add_message(self, item: Fields, path: str) -> None:
        role = need(item, "role", str, path)
        if "content" not in item:
            raise FieldError(f"{path}.content", "is missing")
        content = _content(item["content"], f"{path}.content")
        if role in {"system", "developer"}:
            if self.messages:
                self.messages.append({"role": "system", "content": _plain(content)})
            else:
                self.system.append(_plain(content))
        elif role == "assistant":
            message = self._assistant()
            message["content"] = (message["content"] or "") + _plain(content)
        elif role == "user":
            self.messages.append({"role": role, "content": content})
        else:
            raise FieldError(f"{path}.role", "must be `user`, `assistant`, `system` or `developer`")

    def _add_output(self, item: Fields, path: str) -> None:
        if "output" not in item:
            raise FieldError(f"{path}.output", "is missing")
        content = _content(item["output"], f"{path}.output")
        call = need(item, "call_id", str, path)
        images = [] if isinstance(content, str) else [part for part in content if part["type"] != "text"]
        self.messages.append({"role": "tool", "tool_call_id": call, "content": _plain(content)})
        if images:  # a chat's tool message holds text only
            self.messages.append({"role": "user", "content": images})


def _plain(content: str | list[Fields]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _content(content: Any, path: str) -> str | list[Fields]:
    """Text, or parts; a single text part is text."""
    if isinstance(content, str):
        return content
    parts = [_part(part, where) for where, part in objects(content, path)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Fields, path: str) -> Fields:
    kind = need(part, "type", str, path)
    if kind in {"input_text", "output_text", "text"}:
        return {"type": "text", "text": need(part, "text", str, path)}
    if kind == "refusal":
        return {"type": "text", "text": need(part, "refusal", str, path)}
    if kind == "input_image":
        image: Fields = {"url": need(part, "image_url", str, path)}
        copy_fields(part, image, ("detail",))
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio":
        return {"type": kind, kind: need(part, kind, dict, path)}
    raise FieldError(f"{path}.type", f"{kind!r} cannot be sent to a model here")


def _call(item: Fields, path: str) -> Fields:
    return {
        "id": need(item, "call_id", str, path),
        "type": "function",
        "function": {
            "name": need(item, "name", str, path),
            "arguments": need(item, "arguments", str, path),
        },
    }


def _thoughts(item: Fields, path: str) -> str:
    """The thinking itself, or what was made of it; sealed thinking of OpenAI's own models cannot be read."""
    for name in ("content", "summary"):
        parts = objects(item.get(name) or [], f"{path}.{name}")
        if parts:
            return "".join(need(part, "text", str, where) for where, part in parts)
    return ""
