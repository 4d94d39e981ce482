"""From a complete request to what becomes of it: an order for a replica, an answer of the gateway's own, a refusal."""

from __future__ import annotations

import time

from plinth.gateway.access.callers import Caller
from plinth.gateway.protocol.endpoints import Answer, Endpoint, match
from plinth.gateway.protocol.errors import Refusal, no_table_yet
from plinth.gateway.protocol.probe import probe_body
from plinth.gateway.protocol.request import Request
from plinth.gateway.server.core import Core
from plinth.gateway.server.local import Local, answer_locally
from plinth.gateway.server.order import Order
from plinth.gateway.server.scrape import Scrape
from plinth.gateway.surface.dialects import refusal_document


def receive(core: Core, request: Request) -> Order | Local | Scrape | Refusal:
    """What becomes of a request."""
    endpoint = match(request.method, request.target)
    if isinstance(endpoint, Refusal):
        return endpoint
    caller = _admit(core, request)
    if isinstance(caller, Refusal):
        return caller if endpoint.needs_key else answer_locally(core, endpoint, request.target, None)
    if endpoint.answer is Answer.REPLICA:
        return _order(core, request, endpoint, caller)
    if endpoint.answer is Answer.METRICS:
        if not core.shows_metrics:
            return Refusal(404, "not_found", "metrics are on a port of their own", should_retry=False)
        if core.peers is not None:
            return Scrape(core.peers)
    return answer_locally(core, endpoint, request.target, caller)


def _order(core: Core, request: Request, endpoint: Endpoint, caller: Caller) -> Order | Refusal:
    probe = probe_body(request.body)
    if isinstance(probe, Refusal):
        return probe
    names = core.fleet.names
    target = names.find(probe.model, caller.key.tenant)
    if target is None:
        if core.fleet.version == 0:
            return no_table_yet()
        return names.missing(probe.model, core.names_for(caller), caller.may_ask)
    order = Order(core, request, endpoint, probe, caller=caller, target=target)
    return order.turn_to(order.first_route()) or order


def _admit(core: Core, request: Request) -> Caller | Refusal:
    if core.gate is None:
        return no_table_yet()
    return core.gate.admit(request.authorization, request.api_key, time.time())


def refusal_body(request: Request, refusal: Refusal) -> bytes:
    """An error as the clients of this path read it, where there is no order yet."""
    path = request.target.partition(b"?")[0].decode("latin-1")
    return refusal_document(path, refusal, request.request_id.decode())
