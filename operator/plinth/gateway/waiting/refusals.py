"""What a client reads whose request cannot wait, or waited in vain. Pure."""

from __future__ import annotations

import math
from typing import Any

from plinth.gateway.protocol.errors import OVERLOADED, Refusal
from plinth.gateway.waiting.queue import Reason, Rejection


def refusal(rejection: Rejection[Any], *, model: str, message: str = "") -> Refusal:
    """The answer: 429 when too much waits, 503 when no replica had room in time; both with a computed Retry-After.

    `message` is what the model's route says of itself.
    """
    ticket, seconds = rejection.ticket, math.ceil(rejection.retry_seconds)
    patience = round(ticket.deadline - ticket.arrived, 2)
    if rejection.reason is Reason.EXPIRED:
        why = f": {message}" if message else ""
        text = f"no replica of {model!r} had room within {patience:g} s{why}"
        return Refusal(503, "no_replica_ready", text, OVERLOADED, retry_after=seconds, should_retry=True)
    if rejection.reason is Reason.LATE:
        code, text = "queue_too_long", f"too much waits for {model!r} to serve this within {patience:g} s"
    else:
        code, text = "queue_full", f"as many requests wait for {model!r} as may"
    return Refusal(429, code, text, OVERLOADED, retry_after=seconds, should_retry=True)
