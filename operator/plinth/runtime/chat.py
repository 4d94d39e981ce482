"""A small OpenAI client for people at a terminal: one conversation, streamed."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

import aiohttp

CONNECT_SECONDS = 5.0
KEY_VARIABLE = "PLINTH_API_KEY"
"""Of the environment, and no flag: other people see a command line, and shells remember it."""


class ChatError(Exception):
    """The gateway refused or broke off; the message is its own."""


def key_headers() -> dict[str, str]:
    """What shows the environment's key, if it has one."""
    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


async def stream_chat(endpoint: str, model: str, messages: Sequence[dict[str, str]]) -> AsyncIterator[str]:
    """The answer's text, piece by piece as it comes, asked for with the environment's key if it has one. Raises ChatError."""
    body = {"model": model, "messages": list(messages), "stream": True}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{endpoint}/chat/completions", json=body, headers=key_headers()) as response,
        ):
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise ChatError(f"{_message_of(await response.text())} (set {KEY_VARIABLE})")
            if response.status != HTTPStatus.OK:
                raise ChatError(_message_of(await response.text()))
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield _text_of(json.loads(line[len(b"data: ") :]))
    except aiohttp.ClientError as error:
        raise ChatError(f"{endpoint} does not answer: {error}") from error


def _text_of(event: dict[str, object]) -> str:
    if "error" in event:
        raise ChatError(_message_of(json.dumps(event)))
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices:
        return ""
    return choices[0].get("delta", {}).get("content") or ""


def _message_of(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:400]
