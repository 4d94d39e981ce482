"""What the queue knows of one request: its ticket, held from arrival to the end of the answer. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from plinth.domain.access import BANDS, Band

if TYPE_CHECKING:
    from plinth.gateway.waiting.flow import Flow

T = TypeVar("T")

OUTPUT_WEIGHT: Final = 2.0
"""What an output token costs, a prompt token being 1: w_q and w_p of VTC (arXiv 2401.00588), as in its experiments."""
RANKS: dict[Band, int] = {band: rank for rank, band in enumerate(BANDS)}
"""0 is the most urgent."""


class Ticket(Generic[T]):
    """One request in the queue and at its replica. The queue alone writes `work`, `flow` and `waits`."""

    __slots__ = (
        "arrived",
        "body_bytes",
        "deadline",
        "flow",
        "item",
        "key",
        "number",
        "prompt_tokens",
        "rank",
        "waits",
        "weight",
        "work",
    )

    def __init__(
        self,
        item: T,
        *,
        number: int,
        arrived: float,
        deadline: float,
        key: str = "",
        band: Band = "default",
        weight: int = 1,
        prompt_tokens: int = 0,
        body_bytes: int = 0,
    ) -> None:
        """`arrived` and `deadline`, the last moment to leave the queue, are monotonic seconds.

        `number` is the order of arrival, unique in the process. `key` is the id of the API key; requests without
        one share the empty key. `weight` is the key's share among those that wait in its band.
        """
        self.item = item
        self.number = number
        self.arrived = arrived
        self.deadline = deadline
        self.key = key
        self.rank = RANKS[band]
        self.weight = weight
        self.prompt_tokens = prompt_tokens
        self.body_bytes = body_bytes
        self.work = 0.0
        """Tokens, output ones doubled, that it is expected to cost; its key is charged so much at dispatch."""
        self.flow: Flow | None = None
        """Its key's account, from the first place in the queue or at a replica."""
        self.waits = False
