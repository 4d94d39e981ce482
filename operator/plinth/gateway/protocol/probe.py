"""Reads the few fields of a request's JSON that the gateway needs; the bytes themselves go on unchanged. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from plinth.gateway.protocol.errors import Refusal, bad_request
from plinth.gateway.protocol.unreadable import UNREADABLE

_ABSENT: Final = msgspec.Raw()


class Probe(msgspec.Struct):
    """What the gateway reads of a body; everything else is skipped, and what is raw here is not decoded either."""

    model: str
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    cache_salt: msgspec.Raw = _ABSENT

    def most_output_tokens(self) -> int | None:
        """How long the answer may become; None where the request does not say."""
        for most in (self.max_completion_tokens, self.max_tokens, self.max_output_tokens):
            if most is not None:
                return most if most > 0 else None
        return None

    def prompt_bytes(self) -> memoryview:
        """The raw JSON of what the model is to read first."""
        return memoryview(self.messages or self.prompt or self.input)

    def before_prompt(self) -> bytes:
        """The raw JSON of what a chat template puts ahead of that, and of what keeps callers' caches apart."""
        return bytes(self.tools) + bytes(self.cache_salt) if self.tools or self.cache_salt else b""


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


def _field(message: str) -> str | None:
    return next(
        (name for name in Probe.__struct_fields__ if f"`{name}`" in message or f"$.{name}" in message), None
    )
