"""Which trace a request belongs to: W3C Trace Context level 1 (`traceparent`). Pure; random bytes are an argument."""

from __future__ import annotations

from typing import Final

import msgspec

FRESH_BYTES: Final = 32
"""Random bytes that a request's identifiers take: a trace's 16, and 8 for each of two spans."""
_LENGTH: Final = 55
_HEXADECIMAL: Final = frozenset(b"0123456789abcdef")
_SAMPLED: Final = 1


class Trace(msgspec.Struct, frozen=True, gc=False):
    """Identifiers in lower-case hexadecimal, as headers and OTLP's JSON have them."""

    trace_id: str
    parent_id: str
    """The caller's span; empty when the trace begins here."""
    span_id: str
    """Of the request at the gateway."""
    call_id: str
    """Of the call for an answer: what the replica's own spans hang under."""
    sampled: bool

    def header(self) -> tuple[bytes, bytes]:
        """For the replica. A trace that is not sampled is passed on all the same: the replica must know that."""
        return b"traceparent", f"00-{self.trace_id}-{self.call_id}-{int(self.sampled):02x}".encode()


def join_trace(parent: bytes | None, *, fresh: bytes, share: float) -> Trace:
    """The caller's trace, with its decision on sampling, or a new one that is sampled for a `share` of requests.

    The share is decided on the trace's last 8 bytes, as OpenTelemetry's TraceIdRatioBased does.
    """
    span_id, call_id = fresh[16:24].hex(), fresh[24:32].hex()
    found = _read(parent) if parent else None
    if found is not None:
        trace_id, parent_id, flags = found
        return Trace(trace_id, parent_id, span_id, call_id, bool(flags & _SAMPLED))
    sampled = int.from_bytes(fresh[8:16]) < share * 2**64
    return Trace(fresh[:16].hex(), "", span_id, call_id, sampled)


def _read(header: bytes) -> tuple[str, str, int] | None:
    """Trace, parent and flags; None for what the recommendation calls invalid."""
    version, dash, rest = header[:2], header[2:3], header[_LENGTH:]
    parts = header[3:_LENGTH].split(b"-")
    if len(header) < _LENGTH or dash != b"-" or [len(part) for part in parts] != [32, 16, 2]:
        return None
    if not _HEXADECIMAL.issuperset(version + b"".join(parts)) or version == b"ff":
        return None
    # A later version may say more after these fields; version 00 may not.
    if rest and (version == b"00" or not rest.startswith(b"-")):
        return None
    trace_id, parent_id, flags = parts
    if not (trace_id.strip(b"0") and parent_id.strip(b"0")):
        return None
    return trace_id.decode(), parent_id.decode(), int(flags, 16)
