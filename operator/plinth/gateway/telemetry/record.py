"""What is known of a request when it is over. Pure.

There is no field for a header, a prompt or an answer, so none of them can get into a log by mistake.
"""

from __future__ import annotations

import msgspec

from plinth.gateway.telemetry.tracing import Trace


class Attempt(msgspec.Struct, gc=False):
    """One replica tried."""

    slot: str
    after_seconds: float
    """From the request's arrival."""
    failure: str = ""
    """Why it went elsewhere, as a code."""


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request, whatever its end. Times in seconds."""

    request_id: str
    began_at: float
    """Unix seconds at which the request was readable."""
    duration: float
    method: str
    path: str
    status: int
    """What the client got; 499 when it left first."""
    error: str = ""
    """A refusal's code, or `stream_broken`."""
    client: str = ""
    """Its address."""
    tenant: str = ""
    key_id: str = ""
    policy: str = ""
    band: str = ""
    model: str = ""
    """`namespace/name`; empty when no model was found."""
    asked_model: str = ""
    """As the client wrote it."""
    stream: bool = False
    cache: str = ""
    """What the response cache did (`hit`, `fwd=miss`…); empty when it was not asked."""
    queued: float = 0.0
    """Waiting for room at a replica."""
    overhead: float = 0.0
    """The gateway's own work before the request was on its way, with the wait for it."""
    first_token: float | None = None
    """From arrival."""
    tpot: float | None = None
    """Between tokens after the first."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    attempts: list[Attempt] = []
    trace: Trace | None = None
