"""What one request asks for, on whose terms, and of which model: made before anything is sent, used for every attempt.

The model may change until an answer begins: to the one that takes part in its traffic, or to a fallback.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from plinth.domain.traffic import ModelRoute
from plinth.gateway.access.callers import Caller
from plinth.gateway.access.terms import Terms
from plinth.gateway.limits.admission import Account
from plinth.gateway.protocol.endpoints import Endpoint, paths_for
from plinth.gateway.protocol.errors import Refusal, bad_request
from plinth.gateway.protocol.probe import before_prompt, most_output_tokens, prompt_bytes
from plinth.gateway.protocol.probe_fields import Probe
from plinth.gateway.protocol.request import Request
from plinth.gateway.resume.asked import Prepared, prepare
from plinth.gateway.routing.blocks import blocks_of_bytes
from plinth.gateway.routing.placement import Prompt
from plinth.gateway.routing.weights import taker, ticket
from plinth.gateway.surface.dialects import refusal_document, translate
from plinth.gateway.surface.exchange import Exchange
from plinth.gateway.surface.names import Target
from plinth.gateway.surface.native import ENGINES_DIFFER, translate_native
from plinth.gateway.surface.renaming import with_model

if TYPE_CHECKING:
    from plinth.gateway.server.core import Core
    from plinth.gateway.server.model import Model

_PLAIN: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"})
"""Paths that every engine knows as they are."""
_RESUMABLE: Final = frozenset({b"/v1/chat/completions", b"/v1/completions"})
_SEEDS: Final = 1 << 31


class Order:
    """One request, ready to be sent. `turn_to` sets all that depends on the model."""

    __slots__ = (
        "_core",
        "_known",
        "_name",
        "account",
        "arrived",
        "asked",
        "billed",
        "body",
        "body_bytes",
        "caller",
        "endpoint",
        "exchange",
        "input_tokens",
        "model",
        "number",
        "output_tokens",
        "path",
        "prepared",
        "probe",
        "prompt",
        "request",
        "session",
        "target",
        "terms",
        "trace",
        "tried_models",
    )

    def __init__(
        self,
        core: Core,
        request: Request,
        endpoint: Endpoint,
        probe: Probe,
        *,
        caller: Caller,
        target: Target,
    ) -> None:
        self._core = core
        self.request = request
        self.endpoint = endpoint
        self.probe = probe
        self.caller = caller
        self.target = target
        self.arrived = core.clock.ready_at()
        self.number = core.next_number()
        self.asked = probe.model
        self.body_bytes = len(request.body)
        self.trace = core.trace(request) if core.traces_share is not None else None
        self.tried_models: tuple[str, ...] = ()
        self.session = ""
        self.model: Model
        self._name: str
        """That the model's engines answer to."""
        self._known: bool
        """The client named it so."""
        self.billed: str
        """The model whose limits count, `namespace/name`: the one that was asked for, or its fallback."""
        self.terms: Terms
        self.account: Account | None
        """None where no limit holds."""
        self.input_tokens: int
        self.output_tokens: int
        """Both estimated."""
        self.exchange: Exchange | None
        self.path: bytes
        self.body: bytes
        """As the replica gets them."""
        self.prepared: Prepared | None
        """What of a stream is edited, so that its usage is known and it can go on elsewhere."""
        self.prompt: Prompt

    def turn_to(self, route: ModelRoute) -> Refusal | None:
        """Asks this model from now on, or whichever takes the request of those in its traffic."""
        self.tried_models = (*self.tried_models, route.model)
        terms = self.caller.terms(route.model)
        if terms is None:
            return self.caller.refuse(self.asked, route.model, self._core.names_for(self.caller))
        if route.task != self.endpoint.task:
            text = f"the model {self.asked!r} answers on {paths_for(route.task)}, not on {self.endpoint.path}"
            return bad_request(text, code="wrong_endpoint_for_model", param="model")
        self.terms = terms
        self.billed = route.model
        self.session = self._read_session(route)
        self.model = self._core.fleet.models[route.model]
        if route.shares and (name := taker(route.shares, ticket(self.number, self.session))) is not None:
            other = self._core.fleet.models.get(name)
            if other is not None and other.has_life():
                self.model = other
        return self._prepare()

    def turn_to_copy(self, model: Model, terms: Terms) -> Refusal | None:
        """Asks a model that only watches, on terms of its own."""
        self.model, self.terms, self.billed = model, terms, model.name
        self.tried_models = tuple(route.model for route in self.target.chain)
        return self._prepare(edits=False)

    def first_route(self) -> ModelRoute:
        """The model that was asked for, or its fallback where that one refuses all requests."""
        route = self.target.route
        if self._core.fleet.models[route.model].refusal() is not None and self.caller.may_ask(route):
            return self.next_route() or route
        return route

    def next_route(self) -> ModelRoute | None:
        """The fallback to turn to; None when none is left that is served still and that the caller may ask."""
        models, caller = self._core.fleet.models, self.caller
        return self.target.next(
            lambda route: route.model in models and caller.may_ask(route), self.tried_models
        )

    def take_account(self, now: float) -> None:
        """Finds the limits that hold."""
        if self.terms.limits:
            key = self.caller.key
            self.account = self._core.limiter.account(
                key.id, self.billed, tenant=key.tenant, terms=self.terms, now=now
            )
        else:
            self.account = None

    def fit(self, engine: str) -> Refusal | None:
        """Says it as this engine takes it, where engines differ; one of the other may have been tried before."""
        if self.endpoint.path not in ENGINES_DIFFER:
            return None
        found = translate_native(self.endpoint.path, self.request.body, model=self._name, engine=engine)
        if isinstance(found, Refusal):
            return found
        body = self._named() if found is None else found.body
        if isinstance(body, Refusal):
            return body
        self.exchange, self.body = found, body
        self.path = self.request.target if found is None else found.path
        return None

    def refusal_body(self, refusal: Refusal) -> bytes:
        """An error as this client reads it."""
        request_id = self.request.request_id.decode()
        if self.exchange is not None:
            return self.exchange.refusal_body(refusal, request_id)
        return refusal_document(self.endpoint.path, refusal, request_id)

    def _prepare(self, *, edits: bool = True) -> Refusal | None:
        """What the replica is asked. A stream of which nobody loses anything needs no `edits`: it ends where it breaks."""
        route, request = self.model.route, self.request
        body: bytes | Refusal
        body, path = request.body, request.target
        self.exchange = None
        self.prepared = None
        self._known = self.asked in route.names or self.asked in route.adapters
        self._name = self.asked if self._known else route.names[0]
        if self.endpoint.path not in _PLAIN:
            exchange = translate(
                self.endpoint.path,
                body,
                model=self._name,
                identity=f"{self._core.identity.replace('-', '')}{self.number:x}",
                created=int(time.time()),
            )
            if isinstance(exchange, Refusal):
                return exchange
            if exchange is not None:
                self.exchange, body, path = exchange, exchange.body, exchange.path
        if self.exchange is None:
            body = self._named()
        if isinstance(body, Refusal):
            return body
        self._estimate(route)
        if edits and self.probe.stream and path in _RESUMABLE:
            resumes = self._core.limits.resume_seconds > 0
            self.prepared = prepare(body, self.number % _SEEDS, resumes=resumes)
            if self.prepared is not None:
                body = self.prepared.body
        self.body, self.path = body, path
        return None

    def _named(self) -> bytes | Refusal:
        """What the client sent, with the name that engines answer to."""
        return self.request.body if self._known else with_model(self.request.body, self._name)

    def _estimate(self, route: ModelRoute) -> None:
        probe, estimates = self.probe, self._core.estimates
        self.input_tokens = estimates.input_tokens(route.model, self.body_bytes)
        self.output_tokens = estimates.output_tokens(self.caller.id, route.model, most_output_tokens(probe))
        adapter = self.asked if self.asked in route.adapters else ""
        self.prompt = Prompt(
            self.input_tokens,
            blocks_of_bytes(prompt_bytes(probe), before=before_prompt(probe), adapter=adapter),
            output_tokens=self.output_tokens,
            band=self.terms.priority,
            session=self.session,
            adapter=adapter,
        )

    def _read_session(self, route: ModelRoute) -> str:
        if not route.session_header:
            return ""
        wanted = route.session_header.encode()
        return next((value.decode("latin-1") for name, value in self.request.headers if name == wanted), "")
