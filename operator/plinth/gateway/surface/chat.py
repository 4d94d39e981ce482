"""What is read of a chat completion, whole or chunk by chunk: the form that engines speak. Pure.

Every other dialect is translated to chat completions and back, so that routing, resuming, caching and counting
see one form. Only the fields that a dialect can say are decoded; msgspec skips the rest.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.protocol.unreadable import UNREADABLE


class FunctionDelta(msgspec.Struct):
    """A function's name, then its arguments bit by bit."""

    name: str | None = None
    arguments: str | None = None


class ToolDelta(msgspec.Struct):
    """What a chunk adds to the tool call at `index`."""

    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None


class Logprobs(msgspec.Struct):
    """One entry for each token, passed on as it came: the responses dialect writes them the same way."""

    content: list[msgspec.Raw] | None = None


class Said(msgspec.Struct):
    """What the model says, in a chunk's `delta` or a whole answer's `message`.

    vLLM calls the thinking `reasoning`, llama.cpp `reasoning_content`.
    """

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolDelta] | None = None

    def thinking(self) -> str | None:
        """What is said before the answer proper."""
        return self.reasoning or self.reasoning_content


class Choice(msgspec.Struct):
    """One of the answers; a gateway's translation asks for one."""

    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """vLLM: the stop string that ended the text."""
    logprobs: Logprobs | None = None


class PromptDetails(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """What the answer's tokens were."""

    reasoning_tokens: int | None = None


class ChatUsage(msgspec.Struct):
    """Tokens, as the engine counts them."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def output(self) -> int:
        """Tokens written."""
        return self.completion_tokens or 0

    def cached(self) -> int:
        """Tokens of the prompt that were not computed anew."""
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0

    def thought(self) -> int:
        """Tokens of thinking, where the engine counts them."""
        details = self.completion_tokens_details
        return (details.reasoning_tokens or 0) if details else 0


class Chat(msgspec.Struct):
    """A whole answer or one chunk of it."""

    choices: list[Choice] = []
    model: str = ""
    usage: ChatUsage | None = None
    error: Any = None


decode_chat = msgspec.json.Decoder(Chat).decode
"""Bytes to a Chat; raises msgspec.DecodeError."""


class TranslationError(Exception):
    """The replica's answer is not a chat completion; the text says in what."""


def read_answer(body: bytes) -> tuple[Said, Choice, Chat]:
    """What a whole answer says, its only choice, and all of it; raises TranslationError."""
    try:
        chat = decode_chat(body)
    except UNREADABLE as error:
        raise TranslationError(f"the replica's answer is not a chat completion: {error}") from error
    if not chat.choices or chat.choices[0].message is None:
        raise TranslationError("the replica's answer has no message")
    choice = chat.choices[0]
    return choice.message or Said(), choice, chat


def error_text(body: bytes) -> str:
    """The words of an engine's error: in OpenAI's shape, or what else it sent (at most 500 characters)."""
    try:
        found = msgspec.json.decode(body)
    except UNREADABLE:
        return body[:500].decode("utf-8", "replace").strip() or "the replica gave no reason"
    inner = found.get("error", found) if isinstance(found, dict) else found
    text = inner.get("message") if isinstance(inner, dict) else inner
    return text if isinstance(text, str) and text else "the replica gave no reason"


def engine_refusal(status: int, body: bytes) -> Refusal:
    """A replica's refusal as one of ours, to be said in the client's dialect."""
    return Refusal(status, "replica_refused", error_text(body))
