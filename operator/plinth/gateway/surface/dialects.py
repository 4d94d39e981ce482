"""Which dialect a path speaks: the two calls that the data path makes here. Pure."""

from __future__ import annotations

from plinth.gateway.protocol.errors import Refusal, error_body
from plinth.gateway.surface.exchange import Exchange
from plinth.gateway.surface.messages.answer import error_document
from plinth.gateway.surface.messages.counting import COUNT_TOKENS, translate_counting
from plinth.gateway.surface.messages.exchange import translate_message
from plinth.gateway.surface.responses.exchange import translate_response

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"


def translate(
    path: str, body: bytes, *, model: str, identity: str, created: int
) -> Exchange | Refusal | None:
    """The exchange for a request in a dialect of its own; None for all others.

    Args:
        path: the endpoint's.
        body: as the client sent it.
        model: the name that the engine answers to.
        identity: unique, of letters and digits; the answer's ids are made of it.
        created: Unix seconds.
    """
    if path == MESSAGES:
        return translate_message(body, model=model, identity=identity)
    if path == COUNT_TOKENS:
        return translate_counting(body, model=model)
    if path == RESPONSES:
        return translate_response(body, model=model, identity=identity, created=created)
    return None


def refusal_document(path: str, refusal: Refusal, request_id: str) -> bytes:
    """An error's body as the clients of this path read it, before or without an exchange."""
    return error_document(refusal, request_id) if path.startswith(MESSAGES) else error_body(refusal)
