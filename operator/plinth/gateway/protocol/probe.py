"""Reads the few fields of a request's JSON that the gateway needs; the bytes themselves go on unchanged. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from plinth.gateway.protocol.errors import Refusal, bad_request
from plinth.gateway.protocol.probe_fields import Probe
from plinth.gateway.protocol.unreadable import UNREADABLE

_DECODER: Final = msgspec.json.Decoder(Probe)


def probe_body(body: bytes) -> Probe | Refusal:
    """The fields, or why the body cannot be routed."""
    if not body:
        return bad_request("the request has no body; a JSON object is needed", code="missing_body")
    try:
        # What is skipped is not decoded, so bytes that are no text could stand in it and go on to the engine.
        str(body, "utf-8")
        probe = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        return bad_request(f"the request's JSON: {error}", code="invalid_field", param=_field(str(error)))
    except RecursionError:
        return bad_request("the request's JSON is nested too deeply", code="invalid_json")
    except UNREADABLE as error:
        return bad_request(f"the request's body is not JSON: {error}", code="invalid_json")
    if not probe.model:
        return bad_request("`model` must name a model", code="invalid_field", param="model")
    return probe


def most_output_tokens(probe: Probe) -> int | None:
    """How long the answer may become; None where the request does not say."""
    for most in (probe.max_completion_tokens, probe.max_tokens, probe.max_output_tokens):
        if most is not None:
            return most if most > 0 else None
    return None


def prompt_bytes(probe: Probe) -> memoryview:
    """The raw JSON of what the model is to read first."""
    return memoryview(probe.messages or probe.prompt or probe.input)


def before_prompt(probe: Probe) -> bytes:
    """The raw JSON of what a chat template puts ahead of that, and of what keeps callers' caches apart."""
    return bytes(probe.tools) + bytes(probe.cache_salt) if probe.tools or probe.cache_salt else b""


def _field(message: str) -> str | None:
    return next(
        (name for name in Probe.__struct_fields__ if f"`{name}`" in message or f"$.{name}" in message), None
    )
