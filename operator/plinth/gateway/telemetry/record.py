"""What is known of a request when it is over. Pure.

There is no field for a header, a prompt or an answer, so none of them can get into a log by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence

from plinth.gateway.telemetry.tracing import Trace


class Attempt:
    """One replica tried."""

    __slots__ = ("after_seconds", "failure", "slot")

    def __init__(self, slot: str, after_seconds: float, failure: str = "") -> None:
        self.slot = slot
        self.after_seconds = after_seconds
        """From the request's arrival."""
        self.failure = failure
        """Why it went elsewhere, as a code."""


class RequestRecord:
    """One request, whatever its end. Times in seconds."""

    __slots__ = (
        "asked_model",
        "attempts",
        "band",
        "began_at",
        "cache",
        "client",
        "duration",
        "error",
        "first_token",
        "key_id",
        "method",
        "model",
        "output_tokens",
        "overhead",
        "path",
        "policy",
        "prompt_tokens",
        "queued",
        "request_id",
        "status",
        "stream",
        "tenant",
        "tpot",
        "trace",
    )

    def __init__(
        self,
        *,
        request_id: str,
        began_at: float,
        duration: float,
        method: str,
        path: str,
        status: int,
        error: str = "",
        client: str = "",
        tenant: str = "",
        key_id: str = "",
        policy: str = "",
        band: str = "",
        model: str = "",
        asked_model: str = "",
        stream: bool = False,
        cache: str = "",
        queued: float = 0.0,
        overhead: float = 0.0,
        first_token: float | None = None,
        tpot: float | None = None,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        attempts: Sequence[Attempt] = (),
        trace: Trace | None = None,
    ) -> None:
        self.request_id = request_id
        self.began_at = began_at
        """Unix seconds at which the request was readable."""
        self.duration = duration
        self.method = method
        self.path = path
        self.status = status
        """What the client got; 499 when it left first."""
        self.error = error
        """A refusal's code, or `stream_broken`."""
        self.client = client
        """Its address."""
        self.tenant = tenant
        self.key_id = key_id
        self.policy = policy
        self.band = band
        self.model = model
        """`namespace/name`; empty when no model was found."""
        self.asked_model = asked_model
        """As the client wrote it."""
        self.stream = stream
        self.cache = cache
        """What the response cache did (`hit`, `fwd=miss`…); empty when it was not asked."""
        self.queued = queued
        """Waiting for room at a replica."""
        self.overhead = overhead
        """The gateway's own work before the request was on its way, with the wait for it."""
        self.first_token = first_token
        """From arrival."""
        self.tpot = tpot
        """Between tokens after the first."""
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.attempts = attempts
        self.trace = trace
