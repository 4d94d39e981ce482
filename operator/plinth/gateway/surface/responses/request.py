"""A request of the Responses API as a chat completion. Pure.

Fields and their meaning: OpenAI's Python client 3.54, `types/responses/response_create_params.py`. The gateway
keeps no responses, so whatever refers to a kept one is refused by name, as are tools that run at OpenAI; what only
says how OpenAI should handle the request (`store`, `service_tier`, `prompt_cache_key`) is left out.
"""

from __future__ import annotations

from plinth.gateway.surface.reading import FieldError, Fields, copy_fields, expect, maybe, need, objects
from plinth.gateway.surface.responses.items import messages_of
from plinth.gateway.surface.tools import only_tool

_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "user", "parallel_tool_calls"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "chat_template_kwargs"),
)
_KEPT = ("previous_response_id", "conversation", "prompt", "background")
_WORDS = ("auto", "none", "required")
_LOGPROBS = "message.output_text.logprobs"


def chat_request(fields: Fields, model: str) -> Fields:
    """The chat completion to ask for; raises FieldError."""
    for name in _KEPT:
        if fields.get(name):
            raise FieldError(name, "cannot be used here: this gateway keeps no responses")
    if "input" not in fields:
        raise FieldError("input", "is missing")
    chat: Fields = {
        "model": model,
        "messages": messages_of(fields["input"], maybe(fields, "instructions", str)),
    }
    copy_fields(fields, chat, _SAME)
    limit = maybe(fields, "max_output_tokens", int)
    if limit is not None:
        chat["max_tokens"] = limit
    if maybe(fields, "stream", bool):
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    effort = maybe(maybe(fields, "reasoning", dict) or {}, "effort", str, "reasoning")
    if effort is not None:
        chat["reasoning_effort"] = effort
    _add_tools(fields, chat)
    _add_format(fields, chat)
    _add_logprobs(fields, chat)
    return chat


def _add_tools(fields: Fields, chat: Fields) -> None:
    tools = [_tool(tool, path) for path, tool in objects(fields.get("tools") or [], "tools")]
    choice = fields.get("tool_choice")
    if isinstance(choice, str):
        if choice not in _WORDS:
            raise FieldError("tool_choice", "must be `auto`, `none`, `required` or an object")
        # Said without tools, as clients do, engines refuse it.
        if tools:
            chat["tool_choice"] = choice
    elif choice is not None:
        chat["tool_choice"], tools = _choice(expect(choice, dict, "tool_choice"), tools)
    if tools:
        chat["tools"] = tools
    else:
        chat.pop("parallel_tool_calls", None)


def _choice(choice: Fields, tools: list[Fields]) -> tuple[str, list[Fields]]:
    """How to choose, and from which tools."""
    kind = need(choice, "type", str, "tool_choice")
    if kind == "function":
        name = need(choice, "name", str, "tool_choice")
        return "required", only_tool(tools, name, "tool_choice.name")
    if kind == "allowed_tools":
        listed = objects(need(choice, "tools", list, "tool_choice"), "tool_choice.tools")
        names = {need(tool, "name", str, path) for path, tool in listed}
        mode = need(choice, "mode", str, "tool_choice")
        return mode, [tool for tool in tools if tool["function"]["name"] in names]
    raise FieldError("tool_choice.type", f"{kind!r} runs at OpenAI; only functions can be used here")


def _tool(tool: Fields, path: str) -> Fields:
    kind = need(tool, "type", str, path)
    if kind != "function":
        raise FieldError(f"{path}.type", f"{kind!r} runs at OpenAI; only functions can be used here")
    function: Fields = {"name": need(tool, "name", str, path)}
    copy_fields(tool, function, ("description", "parameters", "strict"))
    return {"type": "function", "function": function}


def _add_format(fields: Fields, chat: Fields) -> None:
    shape = maybe(maybe(fields, "text", dict) or {}, "format", dict, "text")
    if shape is None:
        return
    kind = need(shape, "type", str, "text.format")
    if kind == "json_schema":
        schema: Fields = {
            "name": need(shape, "name", str, "text.format"),
            "schema": need(shape, "schema", dict, "text.format"),
        }
        copy_fields(shape, schema, ("description", "strict"))
        chat["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind != "text":
        raise FieldError("text.format.type", "must be `text`, `json_object` or `json_schema`")


def _add_logprobs(fields: Fields, chat: Fields) -> None:
    top = maybe(fields, "top_logprobs", int)
    if top or _LOGPROBS in (maybe(fields, "include", list) or ()):
        chat["logprobs"] = True
        chat["top_logprobs"] = top or 0
