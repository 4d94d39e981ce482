"""Whether a request need be computed at all: a kept answer, another's that is under way, or its own for others to share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from plinth.gateway.cache.answer import BYPASS, HIT, MISS, Answer, cache_status
from plinth.gateway.cache.flights import Flight
from plinth.gateway.cache.key import answer_key, wishes
from plinth.gateway.protocol.response import whole_response
from plinth.gateway.server.answer import Attended
from plinth.gateway.server.ending import Spent
from plinth.gateway.server.shared_answer import SharedAnswer
from plinth.gateway.surface.native import ENGINES_DIFFER
from plinth.gateway.waiting.ticket import RANKS

if TYPE_CHECKING:
    from plinth.gateway.server.answer import Client, ClientAnswer
    from plinth.gateway.server.core import Core
    from plinth.gateway.server.order import Order

_OK: Final = 200


class Asker(Attended, Protocol):
    """The call that asks."""

    __slots__ = ()

    def enter_queue(self) -> None:
        """Nobody has the answer: it must be computed."""

    def shared_ended(self, status: int, cache: str, saved: Spent) -> None:
        """The client has the answer, which need not be computed again, or will have none."""


def answer_from_cache(core: Core, client: Client, answer: ClientAnswer, order: Order, asker: Asker) -> bool:
    """Whether the request is answered by what is kept or under way; else `answer` is shared with those who come."""
    key = _key(order)
    cache = core.cache
    if cache is None or key is None:
        return False
    takes, keeps = wishes(order.request.headers)
    now, rank = time.monotonic(), RANKS[order.terms.priority]
    if takes:
        found = cache.find(key, now)
        if found is not None:
            _give(core, client, order, *found)
            asker.shared_ended(_OK, HIT, Spent(found[0].prompt_tokens, found[0].output_tokens))
            client.finish(keep_alive=core.keeps_alive(order.request))
            return True

        def lead(flight: Flight) -> None:
            client.attend(asker)
            answer.share(flight, cache=MISS, keeps=keeps)
            asker.enter_queue()

        listener = SharedAnswer(core, client, order, rank=rank, lead=lead, ended=asker.shared_ended)
        flight = cache.share(key, listener, now)
        if flight is not None:
            listener.listen(flight)
            client.attend(listener)
            listener.start()
            return True
    answer.share(cache.lead(key, rank), cache=MISS if takes else BYPASS, keeps=keeps)
    return False


def _key(order: Order) -> bytes | None:
    if order.exchange is not None or order.endpoint.path in ENGINES_DIFFER:
        return None  # a translated answer is another document each time
    return answer_key(
        order.request.body,
        use=order.terms.cache,
        tenant=order.caller.key.tenant,
        model=order.model.name,
        revision=order.model.route.revision,
        path=order.endpoint.path,
        generates=order.endpoint.task == "Generate",
    )


def _give(core: Core, client: Client, order: Order, kept: Answer, seconds: float) -> None:
    client.write(
        whole_response(
            _OK,
            [*kept.headers, cache_status(HIT, ttl_seconds=seconds)],
            kept.body,
            request_id=order.request.request_id,
            keep_alive=core.keeps_alive(order.request),
        )
    )
