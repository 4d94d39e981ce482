"""Finding the model that a client asks for. Pure."""

from __future__ import annotations

from typing import Final

from plinth.gateway.protocol.errors import Refusal

_MOST_NAMES_SHOWN: Final = 20


def model_not_found(asked: str, listed: list[str]) -> Refusal:
    """The refusal for a name that nothing answers to; it lists what exists."""
    shown = ", ".join(listed[:_MOST_NAMES_SHOWN]) or "none yet"
    more = len(listed) - _MOST_NAMES_SHOWN
    tail = f" and {more} more (see /v1/models)" if more > 0 else ""
    text = f"the model {asked[:200]!r} does not exist; there are: {shown}{tail}"
    return Refusal(404, "model_not_found", text, param="model", should_retry=False)
