"""Whether a broken stream can go on elsewhere, and how. Pure.

*Continue*: another replica reads the prompt and the tokens already made and goes on. Costs one prefill, and the
prompt's part of it is often cached. Right whenever tokens are all that the engine knows between two steps.

*Replay*: another replica answers the same request anew; what the client has is compared and left out. Costs the
whole answer again, and works only where the engine repeats itself: at temperature 0 or by a seed.
"""

from __future__ import annotations

from enum import Enum

from plinth.gateway.resume.asked import Prepared, obstacle
from plinth.gateway.resume.ledger import Ledger


class Manner(Enum):
    """How a stream goes on."""

    CLOSE = "close"
    """The answer was complete; only its last events are missing."""
    CONTINUE = "continue"
    REPLAY = "replay"


def choose_manner(prepared: Prepared, ledger: Ledger) -> Manner | str:
    """How to go on, or why that is impossible."""
    why = ledger.spoiled or obstacle(prepared.asked)
    if why is not None:
        return why
    if ledger.finish_reason is not None:
        return Manner.CLOSE
    if not prepared.replays and _tokens_are_all(prepared, ledger):
        return Manner.CONTINUE
    if prepared.asked.is_repeatable() or not ledger.given():
        return Manner.REPLAY
    return "what a parser has made of its tokens cannot be made again without a seed or temperature 0"


def _tokens_are_all(prepared: Prepared, ledger: Ledger) -> bool:
    """Whether what comes next is text just as the model writes it, of the kind that came last.

    After plain text it is. Once an engine's parser has taken thoughts apart, only its ids still tell what the
    model wrote; and if stop strings hold text back besides, nothing tells which text belongs to which token.
    """
    kinds = ledger.kinds()
    last = ledger.runs[-1].kind if ledger.runs else ""
    if last not in {"text", "content"} or ledger.owes(beside=last):
        return False
    if len(kinds) == 1:
        return True
    return ledger.names_tokens() and not prepared.asked.withheld_characters()
