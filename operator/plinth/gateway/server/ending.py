"""What is counted, learnt and told when a request is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from plinth.gateway.routing.objectives import Outcome, time_per_output_token
from plinth.gateway.telemetry.families import REPEATED
from plinth.gateway.telemetry.record import Attempt, RequestRecord

if TYPE_CHECKING:
    from plinth.gateway.protocol.errors import Refusal
    from plinth.gateway.protocol.request import Request
    from plinth.gateway.server.answer import ClientAnswer
    from plinth.gateway.server.core import Core
    from plinth.gateway.server.order import Order

_OK: Final = 200


class Spent:
    """Tokens that replicas read and wrote for a request; `tpot` in seconds, where it is known."""

    __slots__ = ("output", "prompt", "told", "tpot")

    def __init__(
        self, prompt: int = 0, output: int = 0, tpot: float | None = None, *, told: bool = False
    ) -> None:
        self.prompt = prompt
        self.output = output
        self.tpot = tpot
        self.told = told
        """By the engine's usage, not estimated."""


NOTHING: Final = Spent()


class Ending:
    """How a request ended. Times in seconds."""

    __slots__ = ("attempts", "cache", "error", "failed", "first_token_at", "overhead", "queued", "status")

    def __init__(
        self,
        *,
        status: int,
        failed: bool,
        error: str,
        cache: str,
        queued: float,
        overhead: float,
        first_token_at: float | None,
        attempts: list[Attempt],
    ) -> None:
        self.status = status
        self.failed = failed
        self.error = error
        self.cache = cache
        self.queued = queued
        self.overhead = overhead
        self.first_token_at = first_token_at
        self.attempts = attempts


def spent_on(answer: ClientAnswer, order: Order, *, sent: bool) -> Spent:
    """What an answer has cost, so far as it came; a prompt that was `sent` has cost its reading."""
    if answer.status != _OK:
        return Spent(prompt=order.input_tokens) if sent and answer.status == 0 else NOTHING
    if not sent:
        return NOTHING  # it was another's, or a kept one
    usage = answer.usage()
    output = usage.completion_tokens or 0
    prompt = order.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    tpot = None
    if answer.first_token_at is not None:
        tpot = time_per_output_token(answer.first_token_at, answer.last_token_at, output)
    return Spent(prompt, output, tpot, told=usage.prompt_tokens is not None)


def tell(core: Core, order: Order, now: float, spent: Spent, ending: Ending) -> None:
    """Totals, metrics, what is learnt of lengths, the access log and the trace. `now` is monotonic."""
    model = order.model
    if ending.failed:
        model.totals.failed += 1
    else:
        model.totals.completed += 1
    if ending.cache not in REPEATED:
        model.totals.output_tokens += spent.output
    if ending.attempts and not ending.failed and ending.status == _OK and spent.prompt:
        _learn(core, order, spent, ending)
    model.publish_counts()
    first = ending.first_token_at
    request = order.request
    core.afterwards.tell(
        RequestRecord(
            request_id=request.request_id.decode(),
            began_at=time.time() - (now - order.arrived),
            duration=now - order.arrived,
            method=request.method.decode(),
            path=order.endpoint.path,
            status=ending.status,
            error=ending.error,
            client=request.peer,
            tenant=order.caller.key.tenant,
            key_id=order.caller.id,
            policy=order.terms.policy,
            band=order.terms.priority,
            model=model.name,
            asked_model=order.asked,
            stream=bool(order.probe.stream),
            cache=ending.cache,
            queued=ending.queued,
            overhead=ending.overhead,
            first_token=first - order.arrived if first is not None else None,
            tpot=spent.tpot,
            prompt_tokens=spent.prompt,
            output_tokens=spent.output,
            attempts=ending.attempts,
            trace=order.trace,
        )
    )


def tell_refused(core: Core, request: Request, refusal: Refusal) -> None:
    """A request that never came as far as a model."""
    core.afterwards.tell(
        RequestRecord(
            request_id=request.request_id.decode(),
            began_at=time.time(),
            duration=0.0,
            method=request.method.decode(),
            path="",
            status=refusal.status,
            error=refusal.code,
            client=request.peer,
        )
    )


def _learn(core: Core, order: Order, spent: Spent, ending: Ending) -> None:
    """How long prompts and answers are, and whether the model's objectives were met."""
    model = order.model
    if spent.told:
        core.estimates.learn_input(model.name, order.body_bytes, spent.prompt)
    core.estimates.learn_output(order.caller.id, model.name, spent.output)
    objectives = model.route.objectives
    if ending.first_token_at is not None and objectives is not None:
        outcome = Outcome(
            prompt_tokens=spent.prompt,
            output_tokens=spent.output,
            ttft_seconds=ending.first_token_at - order.arrived,
            tpot_seconds=spent.tpot,
        )
        model.totals.objectives.count(objectives, outcome)
