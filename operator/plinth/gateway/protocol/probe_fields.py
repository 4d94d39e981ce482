"""The fields of a request's JSON that the gateway reads."""

from __future__ import annotations

from typing import Final

import msgspec

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
