"""Which of llama.cpp's answers with status 500 are about the request and not about the engine.

Its server says 500 to whatever it throws but `std::invalid_argument` (tools/server/server-http.cpp), a field of the
wrong type among it. Clients ask again after a 500, and a gateway takes a replica that gives many for broken: one
wrong request, sent often enough, would put every replica out of service.
"""

from __future__ import annotations

_ABOUT_THE_REQUEST = (
    b"[json.exception.",  # a field of another type than it reads
    b"Failed to parse ",  # messages, tools, arguments of a call
    b"_M_range_check",  # a token that the model does not have
    b" is required",
    b" must be a",
    b"Expected '",
    b"Invalid 'content'",
    b"Invalid tool_choice",
    b"Unable to generate parser",  # tools or messages that its chat template cannot say
)
"""Parts of messages, as xllamacpp 2026.10 has them."""


def honest_status(status: int, body: bytes) -> int:
    """400 for a 500 that tells of the request; every other status as it is."""
    if status == 500 and any(part in body for part in _ABOUT_THE_REQUEST):  # noqa: PLR2004 - HTTP's own number
        return 400
    return status
