"""What a caller without a valid key, or with one that does not open the model, hears; in OpenAI's codes. Pure."""

from __future__ import annotations

from typing import Final

from plinth.gateway.protocol.errors import INVALID, Refusal

UNAUTHORIZED, FORBIDDEN = 401, 403
CODE: Final = "invalid_api_key"


def key_missing() -> Refusal:
    """No key was shown."""
    text = (
        "no API key was given; send it as the header `Authorization: Bearer sk-plinth-…`, or as `x-api-key`"
    )
    return Refusal(UNAUTHORIZED, CODE, text, INVALID, should_retry=False)


def key_unknown() -> Refusal:
    """The key was never made, or was revoked; the shown text is not repeated, it may be another service's secret."""
    text = "the API key is not valid; it may be mistyped or revoked"
    return Refusal(UNAUTHORIZED, CODE, text, INVALID, should_retry=False)


def key_expired(key_id: str) -> Refusal:
    """The key was valid once."""
    text = f"the API key {key_id} has expired; ask whoever gave it to you for a new one"
    return Refusal(UNAUTHORIZED, CODE, text, INVALID, should_retry=False)


def model_not_allowed(key_id: str, asked: str) -> Refusal:
    """The model is one of the key's own tenant."""
    text = f"the API key {key_id} does not open the model {asked[:200]!r}"
    return Refusal(FORBIDDEN, "model_not_allowed", text, INVALID, param="model", should_retry=False)
