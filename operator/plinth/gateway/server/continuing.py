"""Asks a replica what must be known before a broken stream can go on there."""

from __future__ import annotations

import asyncio

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.resume.asked import Prepared
from plinth.gateway.resume.continuation import Joined, resume
from plinth.gateway.resume.ledger import Ledger
from plinth.gateway.server.question import ask
from plinth.gateway.server.replica import Replica


async def find_continuation(
    replica: Replica, prepared: Prepared, ledger: Ledger, path: str, seconds: float
) -> Joined | bytes | Refusal:
    """What to ask of the replica, what is missing of a complete text, or why there is no going on.

    Raises:
        OSError: the replica does not answer, each question within so many `seconds`.
    """
    questions = resume(prepared, ledger, path)
    try:
        question = next(questions)
        while True:
            answer = await ask(replica.pool, replica.prefix, question.path, question.body, seconds=seconds)
            question = questions.send(answer)
    except StopIteration as end:
        found: Joined | bytes | Refusal = end.value
        # The loop breathes between two streams that move: a thousand of them move at once when a replica dies.
        await asyncio.sleep(0)
        return found
