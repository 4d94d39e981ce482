"""The content of a user's message: text, images, documents, and what tools returned. Pure."""

from __future__ import annotations

from typing import Any

from plinth.gateway.surface.reading import FieldError, Fields, maybe, need, objects


def user_messages(content: Any, path: str) -> list[Fields]:
    """The chat messages that say the same: first what tools returned, each apart, then what the user says.

    In that order because chat templates want the results right after the calls.
    """
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Fields] = []
    parts: list[Fields] = []
    for where, block in objects(content, path):
        if need(block, "type", str, where) == "tool_result":
            text, images = _result(block, where)
            results.append(
                {"role": "tool", "tool_call_id": need(block, "tool_use_id", str, where), "content": text}
            )
            parts += images
        else:
            parts.append(_part(block, where))
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}] if parts or not results else results


def _part(block: Fields, path: str) -> Fields:
    kind = need(block, "type", str, path)
    if kind == "text":
        return {"type": "text", "text": need(block, "text", str, path)}
    if kind == "image":
        return {
            "type": "image_url",
            "image_url": {"url": _image_url(need(block, "source", dict, path), path)},
        }
    if kind == "document":
        return {"type": "text", "text": _document(block, path)}
    raise FieldError(f"{path}.type", f"{kind!r} cannot be sent to a model here")


def _image_url(source: Fields, path: str) -> str:
    """An image's address; its bytes, base64, in a `data:` URL go on as they came."""
    where = f"{path}.source"
    kind = need(source, "type", str, where)
    if kind == "url":
        return need(source, "url", str, where)
    if kind == "base64":
        media = need(source, "media_type", str, where)
        return f"data:{media};base64,{need(source, 'data', str, where)}"
    raise FieldError(f"{where}.type", "must be `base64` or `url`: no files are kept here")


def _document(block: Fields, path: str) -> str:
    """A document of plain text; its title before it."""
    where = f"{path}.source"
    source = need(block, "source", dict, path)
    if need(source, "type", str, where) != "text":
        raise FieldError(f"{where}.type", "must be `text`: no engine here reads other documents")
    text, title = need(source, "data", str, where), maybe(block, "title", str, path)
    return f"{title}\n\n{text}" if title else text


def _result(block: Fields, path: str) -> tuple[str, list[Fields]]:
    """A tool's result as text, and its images, which a chat's `tool` message cannot hold."""
    content = block.get("content")
    texts: list[str] = []
    images: list[Fields] = []
    if isinstance(content, str):
        texts.append(content)
    elif content is not None:
        for where, item in objects(content, f"{path}.content"):
            part = _part(item, where)
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(part)
    if maybe(block, "is_error", bool, path):
        texts.insert(0, "Error:")  # a chat has no other place for it
    return "\n".join(texts), images
