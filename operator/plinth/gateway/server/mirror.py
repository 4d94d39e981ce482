"""Copies of requests for models that only watch: their answers are thrown away."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final

from plinth.gateway.access.terms import Terms
from plinth.gateway.routing.weights import mirrors
from plinth.gateway.server.call import Call
from plinth.gateway.server.nobody import Nobody
from plinth.gateway.server.order import Order
from plinth.gateway.waiting.places import Room

if TYPE_CHECKING:
    from plinth.gateway.server.core import Core

_TERMS: Final = Terms(priority="bulk", queue_seconds=0.0)
"""A copy counts against nobody's limits and waits for nothing."""


def mirror(core: Core, order: Order) -> None:
    """Sends copies to the models that watch this one, where they have room to spare."""
    if not order.request.body:
        return  # it has been refused, or answered from the cache
    for name in mirrors(order.target.route.shares, order.number):
        model = core.fleet.models.get(name)
        if model is None or not Room(model.standings).open:
            continue
        copied = Order(
            core, copy(order.request), order.endpoint, order.probe, caller=order.caller, target=order.target
        )
        if copied.turn_to_copy(model, _TERMS) is None:
            call = Call(core, Nobody(), copied)
            core.unattended.add(call)
            call.start()
