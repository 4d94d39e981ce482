"""Reads the few fields of a request's JSON that routing needs; the bytes themselves go on unchanged. Pure."""

from __future__ import annotations

import msgspec

from plinth.gateway.protocol.errors import Refusal, bad_request


class Probe(msgspec.Struct):
    """What the gateway reads of a body; everything else is skipped, not decoded."""

    model: str
    stream: bool | None = None


_DECODER = msgspec.json.Decoder(Probe)


def probe_body(body: bytes) -> Probe | Refusal:
    """The fields, or why the body cannot be routed."""
    if not body:
        return bad_request("the request has no body; a JSON object is needed", code="missing_body")
    try:
        probe = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        return bad_request(f"the request's JSON: {error}", code="invalid_field", param=_field(str(error)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return bad_request(f"the request's body is not JSON: {error}", code="invalid_json")
    if not probe.model:
        return bad_request("`model` must name a model", code="invalid_field", param="model")
    return probe


def estimate_prompt_tokens(body: bytes) -> int:
    """Tokens by size: 4 bytes are about one token, JSON around them included."""
    return len(body) // 4


def _field(message: str) -> str | None:
    return next(
        (name for name in ("model", "stream") if f"`{name}`" in message or f"$.{name}" in message), None
    )
