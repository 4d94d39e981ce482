"""Demanding a tool by its name, in words that every engine obeys. Pure."""

from __future__ import annotations

from plinth.gateway.surface.reading import FieldError, Fields


def only_tool(tools: list[Fields], name: str, path: str) -> list[Fields]:
    """The tool of this name alone, to go with `tool_choice: required`.

    llama.cpp takes `tool_choice` as a word only and passes over an object that names a function (seen with
    xllamacpp 2026.10: "Wrong type supplied for parameter 'tool_choice'"); vLLM would take both.
    """
    found = [tool for tool in tools if tool["function"]["name"] == name]
    if not found:
        raise FieldError(path, f"{name!r} is none of `tools`")
    return found
