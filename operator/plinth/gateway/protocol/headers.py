"""Which headers go no further than this hop, and what a request identifier may look like. Pure."""

from __future__ import annotations

import re
from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 section 7.6.1, and the two that clients send beside it."""

NOT_FORWARDED: Final = HOP_BY_HOP | {
    b"accept-encoding",  # usage is read from the answer as it passes, so it must not be compressed
    b"authorization",  # the gateway's own secret takes its place
    b"content-length",
    b"expect",
    b"host",
    b"x-api-key",  # the client's secret is the gateway's business, as `authorization` is
    b"x-request-id",
}
NOT_RETURNED: Final = HOP_BY_HOP | {b"content-length", b"x-request-id", b"server", b"date"}

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def is_sane_request_id(value: bytes) -> bool:
    """Whether a client's identifier may go into logs and headers as it is."""
    return _SANE_ID.fullmatch(value) is not None


def named_by_connection(value: bytes) -> frozenset[bytes]:
    """The headers that a Connection header declares to be for this hop only, in lower case."""
    return frozenset(token.strip().lower() for token in value.split(b",")) - {b"close", b"keep-alive"}
