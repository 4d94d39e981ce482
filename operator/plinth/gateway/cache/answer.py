"""What is kept of an answer, and whether it deserves to be. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from plinth.gateway.protocol.unreadable import UNREADABLE

Headers = tuple[tuple[bytes, bytes], ...]
HIT, MISS, COLLAPSED, BYPASS = "hit", "fwd=miss", "fwd=miss; collapsed", "fwd=bypass"
"""What the cache did for a request, in the words of RFC 9211: the answer was kept; was computed; is another
request's, got while it was computed; was computed because the client asked for that."""
_OK: Final = 200
_HEAD_BYTES: Final = 768
"""What an answer weighs beside its body: key, two headers, the objects around them (723 bytes measured)."""
_FINISH: Final = b'"finish_reason"'
_NOT_YET: Final = b'"finish_reason":null'
_ERRORS: Final = (b'data: {"error"', b'data:{"error"')
_WHOLE: Final = frozenset({b"stop", b"length", b"tool_calls", b"function_call"})
"""Reasons that the request itself brings about; vLLM also says `abort`, `error` and `repetition`."""
_DONE: Final = b"data: [DONE]"


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One answer with status 200 as the client got it: a JSON document, or an event stream whole."""

    headers: Headers
    """Names in lower case; without those of one hop or one request."""
    body: bytes
    prompt_tokens: int
    output_tokens: int

    @property
    def weight(self) -> int:
        """Bytes that keeping it takes."""
        return len(self.body) + _HEAD_BYTES


def is_worth_keeping(status: int, body: bytes, *, event_stream: bool, generates: bool) -> bool:
    """Whether the answer is complete and would be the same again.

    A quote inside generated text is escaped, so `"finish_reason"` is a key. Read once, when an answer is complete.
    """
    if status != _OK or not body:
        return False
    if event_stream and (not body.rstrip().endswith(_DONE) or any(error in body for error in _ERRORS)):
        return False
    if not generates:
        return True
    reasons = _finish_reasons(body)
    return bool(reasons) and reasons <= _WHOLE


def _finish_reasons(body: bytes) -> set[bytes]:
    """All of them; bytes are searched instead of JSON decoded, which would take five times as long."""
    reasons = set()
    for rest in body.replace(_NOT_YET, b"").split(_FINISH)[1:]:
        value = rest[:64].lstrip(b" :\t\r\n")
        if not value.startswith(b"null"):
            reasons.add(value[1:].partition(b'"')[0])
    return reasons


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Answer)


def pack(answer: Answer) -> bytes:
    """For a store outside the process."""
    return _ENCODER.encode(answer)


def unpack(data: bytes) -> Answer | None:
    """What `pack` made; None for anything else, which is as good as no answer."""
    try:
        return _DECODER.decode(data)
    except UNREADABLE:
        return None


def cache_status(outcome: str, *, ttl_seconds: float | None = None) -> tuple[bytes, bytes]:
    """The header that says so, with the seconds that a kept answer stays."""
    ttl = f"; ttl={ttl_seconds:.0f}" if ttl_seconds is not None else ""
    return b"cache-status", f"plinth; {outcome}{ttl}".encode()
