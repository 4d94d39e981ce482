"""A request of the Messages API as a chat completion. Pure.

Fields and their meaning: Anthropic's Python client 2.12, `types/message_create_params.py`. What no engine can do
(tools that run at Anthropic's servers, files kept there) is refused by name; what only says how Anthropic should
handle the request (`cache_control`, `service_tier`, `container`) is left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plinth.gateway.surface.messages.blocks import user_messages
from plinth.gateway.surface.reading import FieldError, Fields, copy_fields, expect, maybe, need, objects
from plinth.gateway.surface.tools import only_tool

_SAME = ("temperature", "top_p", "top_k", "seed", "chat_template_kwargs")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(fields: Fields, model: str) -> Fields:
    """The chat completion to ask for; raises FieldError."""
    chat: Fields = {"model": model, "messages": _all_messages(fields)}
    chat["max_tokens"] = need(fields, "max_tokens", int)
    if chat["max_tokens"] < 1:
        raise FieldError("max_tokens", "must be at least 1")
    copy_fields(fields, chat, _SAME)
    stops = maybe(fields, "stop_sequences", list)
    if stops:
        chat["stop"] = [expect(stop, str, f"stop_sequences[{at}]") for at, stop in enumerate(stops)]
    if maybe(fields, "stream", bool):
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    if chat["messages"][-1]["role"] == "assistant":
        # The client has begun the answer: the model goes on with it (both engines know these two).
        chat["continue_final_message"] = True
        chat["add_generation_prompt"] = False
    _add_tools(fields, chat)
    _add_thinking(fields, chat)
    return chat


def system_text(value: Any, path: str) -> str:
    """A system prompt: a string or text blocks."""
    if isinstance(value, str):
        return value
    texts = [need(block, "text", str, where) for where, block in objects(value, path)]
    return "\n".join(texts)


def _all_messages(fields: Fields) -> list[Fields]:
    asked = objects(need(fields, "messages", list), "messages")
    if not asked:
        raise FieldError("messages", "must hold at least one message")
    system = [system_text(fields["system"], "system")] if fields.get("system") is not None else []
    found: list[Fields] = []
    for path, message in asked:
        role = need(message, "role", str, path)
        if "content" not in message:
            raise FieldError(f"{path}.content", "is missing")
        content = message["content"]
        if role == "system":
            text = system_text(content, f"{path}.content")
            # Many templates take a system message at the very beginning only: what stands there becomes one.
            if found:
                found.append({"role": "system", "content": text})
            else:
                system.append(text)
        elif role == "user":
            found += user_messages(content, f"{path}.content")
        elif role == "assistant":
            found.append(_assistant_message(content, f"{path}.content"))
        else:
            raise FieldError(f"{path}.role", "must be `user`, `assistant` or `system`")
    head = [{"role": "system", "content": "\n".join(system)}] if system else []
    return head + found


def _assistant_message(content: Any, path: str) -> Fields:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts, thoughts, calls = [], [], []
    for where, block in objects(content, path):
        kind = need(block, "type", str, where)
        if kind == "text":
            texts.append(need(block, "text", str, where))
        elif kind == "thinking":
            thoughts.append(need(block, "thinking", str, where))
        elif kind == "tool_use":
            calls.append(_tool_call(block, where))
        elif kind != "redacted_thinking":  # sealed by Anthropic: nobody else can read it
            raise FieldError(f"{where}.type", f"{kind!r} cannot be sent to a model here")
    message: Fields = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if thoughts:
        # vLLM reads the first name, llama.cpp the second.
        message["reasoning"] = message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: Fields, path: str) -> Fields:
    arguments = msgspec.json.encode(need(block, "input", dict, path)).decode()
    return {
        "id": need(block, "id", str, path),
        "type": "function",
        "function": {"name": need(block, "name", str, path), "arguments": arguments},
    }


def _add_tools(fields: Fields, chat: Fields) -> None:
    tools = [_tool(tool, path) for path, tool in objects(fields.get("tools") or [], "tools")]
    if tools:
        chat["tools"] = tools
    choice = maybe(fields, "tool_choice", dict)
    if choice is None:
        return
    kind = need(choice, "type", str, "tool_choice")
    if kind == "tool":
        name = need(choice, "name", str, "tool_choice")
        chat["tools"], chat["tool_choice"] = only_tool(tools, name, "tool_choice.name"), "required"
    elif kind in _CHOICES:
        chat["tool_choice"] = _CHOICES[kind]
    else:
        raise FieldError("tool_choice.type", "must be `auto`, `any`, `tool` or `none`")
    if maybe(choice, "disable_parallel_tool_use", bool, "tool_choice"):
        chat["parallel_tool_calls"] = False


def _tool(tool: Fields, path: str) -> Fields:
    kind = maybe(tool, "type", str, path)
    if kind not in {None, "custom"}:
        raise FieldError(
            f"{path}.type", f"{kind!r} runs at Anthropic; only tools of your own can be used here"
        )
    function: Fields = {
        "name": need(tool, "name", str, path),
        "parameters": need(tool, "input_schema", dict, path),
    }
    copy_fields(tool, function, ("description", "strict"))
    return {"type": "function", "function": function}


def _add_thinking(fields: Fields, chat: Fields) -> None:
    """Whether to think, how hard, and in what form to answer."""
    thinking = maybe(fields, "thinking", dict)
    if thinking is not None:
        wanted = need(thinking, "type", str, "thinking") != "disabled"
        given = maybe(fields, "chat_template_kwargs", dict) or {}
        # Templates that can switch thinking off (Qwen, Gemma, GLM) call the switch so.
        chat["chat_template_kwargs"] = {"enable_thinking": wanted} | given
    output = maybe(fields, "output_config", dict) or {}
    effort = maybe(output, "effort", str, "output_config")
    if effort is not None:
        chat["reasoning_effort"] = effort
    shape = maybe(output, "format", dict, "output_config")
    if shape is not None:
        schema = need(shape, "schema", dict, "output_config.format")
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    who = maybe(maybe(fields, "metadata", dict) or {}, "user_id", str, "metadata")
    if who is not None:
        chat["user"] = who
