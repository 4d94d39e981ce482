"""The chat client of the terminal: its key, and the gateway's words when there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from plinth.runtime.chat import KEY_VARIABLE, ChatError, stream_chat

KEY = "sk-plinth-test"


@pytest.fixture
async def endpoint() -> AsyncIterator[str]:
    """A gateway that asks for a key."""

    async def chat(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "no API key was given"}}, status=401)
        if (await request.json())["model"] != "chat":
            return web.json_response({"error": {"message": "there is no such model"}}, status=404)
        event = 'data: {"choices": [{"delta": {"content": "Hello"}}]}\n\n'
        return web.Response(text=event + "data: [DONE]\n\n", content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


async def ask(endpoint: str, model: str = "chat") -> str:
    messages = [{"role": "user", "content": "Hi"}]
    return "".join([text async for text in stream_chat(endpoint, model, messages)])


async def test_the_key_of_the_environment_is_shown(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert await ask(endpoint) == "Hello"
    with pytest.raises(ChatError, match=r"^there is no such model$"):
        await ask(endpoint, "other")


async def test_who_has_no_key_is_told_where_it_belongs(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ChatError, match=r"^no API key was given \(set PLINTH_API_KEY\)$"):
        await ask(endpoint)
