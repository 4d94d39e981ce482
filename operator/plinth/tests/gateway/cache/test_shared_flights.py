"""One answer under way, many who asked for it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from plinth.gateway.cache.flights import Flight, Flights
from plinth.gateway.protocol.errors import stream_broken

HEADERS = ((b"content-type", b"text/event-stream"),)


class Listening:
    """Reads at once, unless it is slow; remembers what it got."""

    def __init__(self, rank: int = 2, *, slow: bool = False) -> None:
        self.rank = rank
        self.slow = slow
        self.flight: Flight | None = None
        self.leads: Flight | None = None
        self.left_behind = False
        self.got = b""
        self.ended = ""

    def on_news(self) -> None:
        assert self.flight is not None
        assert not self.left_behind
        if self.slow:
            return
        self.got += self.flight.read(self)
        if self.flight.has_ended():
            self.ended = "complete" if self.flight.complete else "refused"
            self.flight.leave(self)

    def on_lead(self, flight: Flight) -> None:
        self.leads = flight

    def on_left_behind(self) -> None:
        self.left_behind = True

    def catch_up(self) -> None:
        self.slow = False
        self.on_news()


def make_flights(answer_bytes: int = 1000, most_bytes: int = 10_000) -> Flights:
    return Flights(answer_bytes=answer_bytes, most_bytes=most_bytes)


def join(flights: Flights, listener: Listening, key: bytes = b"k") -> Listening:
    listener.flight = flights.join(key, listener)
    return listener


@pytest.fixture
def flights() -> Iterator[Flights]:
    """Whatever a test does, in the end nothing is held."""
    flights = make_flights()
    yield flights
    assert (len(flights), flights.held) == (0, 0)


def test_the_first_leads_and_those_after_it_get_the_answer_from_its_beginning_and_live(
    flights: Flights,
) -> None:
    early = Listening()
    assert flights.join(b"k", early) is None
    flight = flights.lead(b"k", 2)
    join(flights, early)
    flight.begin(200, HEADERS)
    flight.feed(b"one ")
    assert early.got == b"one "
    late = join(flights, Listening())
    late.catch_up()
    flight.feed(b"two")
    assert (early.got, late.got) == (b"one two", b"one two")
    assert flight.end() == b"one two"
    assert (early.ended, late.ended) == ("complete", "complete")


def test_another_key_is_another_flight(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    assert flights.join(b"other", Listening()) is None
    assert flight.end() == b""


def test_a_failure_reaches_all_who_listen_and_no_one_after_them(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    listener = join(flights, Listening())
    flight.begin(200, HEADERS)
    flight.feed(b"part")
    flight.fail(stream_broken("gone"))
    assert (listener.got, listener.ended) == (b"part", "refused")
    assert flights.join(b"k", Listening()) is None


def test_when_the_leader_cannot_go_on_the_most_urgent_listener_leads(flights: Flights) -> None:
    flight = flights.lead(b"k", 0)
    first, urgent, second = (join(flights, Listening(rank)) for rank in (2, 1, 1))
    flight.give_up()
    assert urgent.leads is flight
    assert flight.rank == 1
    flight.begin(200, HEADERS)
    flight.feed(b"x")
    flight.end()
    assert (first.got, second.got, urgent.got) == (b"x", b"x", b"")


def test_a_flight_that_nobody_else_awaits_ends_with_its_leader(flights: Flights) -> None:
    flights.lead(b"k", 2).give_up()
    assert flights.lead(b"k", 2).outlives(lambda: None) is False


def test_a_leader_whose_client_left_goes_on_until_the_last_listener_leaves(flights: Flights) -> None:
    deserted: list[bool] = []
    flight = flights.lead(b"k", 2)
    one, two = join(flights, Listening()), join(flights, Listening())
    assert flight.outlives(lambda: deserted.append(True))
    flight.leave(one)
    assert not deserted
    flight.leave(two)
    assert deserted == [True]


def test_who_gave_up_is_not_told_when_its_heirs_flight_is_deserted(flights: Flights) -> None:
    flight = flights.lead(b"k", 1)
    heir, other = join(flights, Listening(1)), join(flights, Listening())
    assert flight.outlives(lambda: pytest.fail("it gave up"))
    flight.give_up()
    assert heir.leads is flight
    flight.leave(other)
    assert join(flights, Listening()).flight is flight
    flight.end()


def test_a_deserted_flight_that_ended_is_not_aborted(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    join(flights, Listening())
    flight.outlives(lambda: pytest.fail("it had ended"))
    flight.end()


def test_an_urgent_request_does_not_wait_behind_one_of_a_lower_band(flights: Flights) -> None:
    bulk = flights.lead(b"k", 3)
    assert flights.join(b"k", Listening(rank=1)) is None
    urgent = flights.lead(b"k", 1)
    assert join(flights, Listening(rank=3)).flight is urgent
    bulk.end()  # the older flight's end does not remove the newer one
    assert join(flights, Listening(rank=3)).flight is urgent
    urgent.end()


def test_an_answer_that_has_begun_waits_for_nothing_so_any_band_joins(flights: Flights) -> None:
    flight = flights.lead(b"k", 3)
    flight.begin(200, HEADERS)
    assert join(flights, Listening(rank=0)).flight is flight
    flight.end()


def test_an_answer_too_large_to_hold_goes_on_live_but_is_not_joined_nor_kept(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    listener = join(flights, Listening())
    flight.begin(200, HEADERS)
    for _ in range(5):
        flight.feed(b"x" * 300)
    assert flights.join(b"k", Listening()) is None
    assert flights.held == 0
    assert flight.end() is None
    assert (len(listener.got), listener.ended) == (1500, "complete")


def test_a_slow_listener_is_left_behind_when_it_keeps_too_much_from_going(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    slow, quick = join(flights, Listening(slow=True)), join(flights, Listening())
    flight.begin(200, HEADERS)
    for _ in range(5):
        flight.feed(b"x" * 300)
        assert flights.held <= 1300
    assert slow.left_behind
    flight.end()
    assert len(quick.got) == 1500


def test_a_slow_listener_gets_all_of_an_answer_that_ends_before_it_reads(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    slow = join(flights, Listening(slow=True))
    flight.begin(200, HEADERS)
    flight.feed(b"all of ")
    flight.feed(b"it")
    assert flight.end() == b"all of it"
    assert flights.held == 9
    slow.catch_up()
    assert (slow.got, slow.ended) == (b"all of it", "complete")


def test_a_slow_listener_that_leaves_after_the_end_leaves_nothing_behind(flights: Flights) -> None:
    flight = flights.lead(b"k", 2)
    slow = join(flights, Listening(slow=True))
    flight.begin(200, HEADERS)
    flight.feed(b"unread")
    flight.end()
    assert flights.held == len(b"unread")
    flight.leave(slow)
    assert flights.held == 0


def test_all_flights_together_are_bounded() -> None:
    flights = make_flights(answer_bytes=1000, most_bytes=2000)
    leads = [flights.lead(b"%d" % number, 2) for number in range(10)]
    for _ in range(10):
        for flight in leads:
            flight.feed(b"x" * 90)
            assert flights.held <= 2000
    for flight in leads:
        flight.end()
    assert flights.held == 0


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_listeners_get_exactly_the_answer_or_are_told(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's
    flights = make_flights(answer_bytes=chance.choice([60, 10_000]), most_bytes=chance.choice([100, 100_000]))
    flight = flights.lead(b"k", 2)
    flight.begin(200, HEADERS)
    listeners: list[Listening] = []
    sent = b""
    for number in range(60):
        what = chance.random()
        if what < 0.5:
            sent += b"%d," % number
            flight.feed(b"%d," % number)
        elif what < 0.7:
            listener = join(flights, Listening(slow=chance.random() < 0.4))
            if listener.flight is not None:
                listeners.append(listener)
                listener.on_news()
        elif listeners:
            listener = chance.choice(listeners)
            if not listener.left_behind:
                listener.catch_up()
    body = flight.end()
    assert body in {None, sent}
    for listener in listeners:
        if not listener.left_behind:
            if not listener.ended:
                listener.catch_up()
            assert (listener.got, listener.ended) == (sent, "complete")
    assert (len(flights), flights.held) == (0, 0)
