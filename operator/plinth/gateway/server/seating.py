"""Which word of the shared memory stands for which replica and model: given out by the parent, told to the workers.

A replica's seat is taken back when its place has left the table, every worker knows that, and nothing is in flight
there. Only then is it given to another: a worker that still dispatches by an older table must not count at a stranger's
seat. A model keeps its seat for good, so that its totals go on when it comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from plinth.domain.traffic import ReplicaRoute, RouteTable
from plinth.gateway.routing.choice import Standing
from plinth.gateway.server.shared_load import (
    MOST_MODELS,
    MOST_REPLICAS,
    LoadBoard,
    ModelShare,
    ReplicaShare,
)
from plinth.gateway.server.worker_lines import Seats


def place_of(route: ReplicaRoute) -> str:
    """The same slot at another address is another process, with a load of its own."""
    return f"{route.slot} {route.host}:{route.port}{route.path}"


@dataclass
class Seating:
    """Gives seats out and takes them back."""

    replicas: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    highest: int = 0
    """Replica seats below this have been used."""
    _free: list[int] = field(default_factory=list)
    _left: set[str] = field(default_factory=set)
    """Places no longer in the newest table."""

    def apply(self, table: RouteTable) -> Seats:
        """Seats for everything in the table, beside those still held."""
        places = {place_of(route) for model in table.models for route in model.replicas}
        self._left = self.replicas.keys() - places
        for place in sorted(places):
            if place not in self.replicas and (seat := self._free_seat()) is not None:
                self.replicas[place] = seat
        for model in table.models:
            if len(self.models) < MOST_MODELS:
                self.models.setdefault(model.model, len(self.models))
        return self.seats()

    def seats(self) -> Seats:
        """All that are given out."""
        return Seats(replicas=dict(self.replicas), models=dict(self.models))

    def take_back(self, in_flight: Callable[[int], int]) -> None:
        """Frees the seats of places that have left; to be called when every worker has the newest table.

        `in_flight` tells the requests at a seat.
        """
        for place in [place for place in self._left if in_flight(self.replicas[place]) == 0]:
            self._left.discard(place)
            self._free.append(self.replicas.pop(place))

    def _free_seat(self) -> int | None:
        if self._free:
            return self._free.pop()
        if self.highest == MOST_REPLICAS:
            return None
        self.highest += 1
        return self.highest - 1


class Shares:
    """A worker's side: the shares at the seats that it was told, and private ones where it knows of none."""

    def __init__(self, board: LoadBoard | None = None) -> None:
        """Without a board there are no other workers."""
        self._board = board
        self.lanes = 1 if board is None else board.lanes
        """Workers, this one included."""
        self._seats = Seats(replicas={}, models={})

    def apply(self, seats: Seats) -> None:
        """The newest seats; shares taken before stay good."""
        self._seats = seats

    def replica(self, route: ReplicaRoute, standing: Standing) -> ReplicaShare | None:
        """For a replica that has just come; None where nobody else looks."""
        if self._board is None:
            return None
        return ReplicaShare(*self._at(self._seats.replicas.get(place_of(route))), standing)

    def seat_of(self, route: ReplicaRoute) -> int | None:
        """By which all workers know the replica; None where they have no common name for it."""
        return self._seats.replicas.get(place_of(route))

    def model(self, name: str) -> ModelShare:
        """For a model that has just come."""
        return ModelShare(*self._at(self._seats.models.get(name)))

    def _at(self, seat: int | None) -> tuple[LoadBoard, int]:
        return (LoadBoard.alone(), 0) if self._board is None or seat is None else (self._board, seat)
