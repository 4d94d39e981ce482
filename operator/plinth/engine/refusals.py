"""Answers that the replica itself gives, in OpenAI's error shape, so that every client shows the message."""

from __future__ import annotations

import msgspec

from plinth.engine.seam import Send


async def send_json(send: Send, status: int, value: object) -> None:
    """Answer with one JSON document."""
    body = msgspec.json.encode(value)
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, code: str, message: str) -> None:
    """Answer with an error as OpenAI writes them."""
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 - HTTP's own border
    await send_json(send, status, {"error": {"message": message, "type": kind, "param": None, "code": code}})
