"""Whose turn it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.access import BANDS
from plinth.gateway.waiting import band as band_module
from plinth.gateway.waiting.band import BandQueue
from plinth.gateway.waiting.ticket import Ticket
from plinth.tests.gateway.waiting.builders import make_queue, make_ticket, take_all, take_one


def test_without_keys_the_first_to_come_is_served_first() -> None:
    queue = make_queue(*(make_ticket(name, key="") for name in "abcd"))
    assert take_all(queue) == "a b c d"
    assert not queue


def test_a_more_urgent_band_goes_first() -> None:
    queue = make_queue(*(make_ticket(name, band=name, key=name) for name in reversed(BANDS)))
    assert take_all(queue) == "system interactive default bulk"


def test_keys_take_turns_by_the_tokens_they_were_served() -> None:
    heavy = [make_ticket(f"heavy{number}", key="heavy", prompt_tokens=3000) for number in range(3)]
    light = [make_ticket(f"light{number}", key="light", prompt_tokens=500) for number in range(5)]
    assert take_all(make_queue(*heavy, *light)) == (
        "heavy0 light0 light1 light2 light3 heavy1 light4 heavy2"  # 3512 against 4 x 1012
    )


def test_twice_the_weight_gets_twice_the_turns() -> None:
    tickets = [make_ticket(name, key=name, weight=2 if name == "b" else 1) for name in "ab" * 6]
    order = take_all(make_queue(*tickets)).split()
    assert order[:6].count("b") == 4


def test_output_counts_double_and_corrects_what_was_expected() -> None:
    a, b = make_ticket("a1", key="a"), make_ticket("b1", key="b")
    queue = make_queue(a, b, make_ticket("a2", key="a"), make_ticket("b2", key="b"))
    assert (take_one(queue), take_one(queue)) == ("a1", "b1")
    queue.settle(a, prompt_tokens=100, output_tokens=50, seconds=1)
    queue.settle(b, prompt_tokens=140, output_tokens=20, seconds=1)  # 180 against 200
    assert take_all(queue) == "b2 a2"


def test_a_key_learns_how_long_its_answers_are() -> None:
    queue = make_queue()
    for _ in range(100):
        ticket = make_ticket(key="long")
        queue.pass_by(ticket)
        queue.settle(ticket, prompt_tokens=100, output_tokens=1000, seconds=1)
    ticket = make_ticket(key="long")
    queue.pass_by(ticket)
    assert 2090 < ticket.work <= 2100


def test_a_key_that_comes_back_has_saved_nothing_up() -> None:
    busy = [make_ticket(f"busy{number}", key="busy") for number in range(8)]
    queue = make_queue(*busy)
    for _ in range(4):
        take_one(queue)
    for number in range(4):
        assert queue.offer(make_ticket(f"back{number}", key="back"), 0.0, slots=1) is None
    assert take_all(queue) == "back0 busy4 back1 busy5 back2 busy6 back3 busy7"


def test_what_a_key_used_while_nobody_waited_is_not_held_against_it() -> None:
    queue = make_queue()
    for _ in range(50):
        queue.pass_by(make_ticket(key="alone"))
    for name in ("new", "alone") * 3:
        assert queue.offer(make_ticket(name, key=name), 0.0, slots=1) is None
    assert take_all(queue) == "new alone new alone new alone"


def test_within_a_key_the_earliest_deadline_goes_first() -> None:
    tickets = [make_ticket(str(patience), patience=patience) for patience in (30, 10, 20)]
    assert take_all(make_queue(*tickets)) == "10 20 30"


def test_a_request_that_comes_back_has_its_old_place_and_is_not_charged_twice() -> None:
    first, other = make_ticket("first", key="a"), make_ticket("other", key="b")
    queue = make_queue(first, make_ticket("second", key="a"), other)
    assert take_one(queue) == "first"
    queue.put_back(first)
    assert len(queue) == 3
    assert take_all(queue) == "first other second"


def test_what_has_waited_beyond_its_patience_gets_one_turn_in_eight() -> None:
    old = [make_ticket("bulk", band="bulk", key="slow") for _ in range(3)]
    queue = make_queue(*old, *(make_ticket("now", band="interactive", arrived=200.0) for _ in range(24)))
    order = take_all(queue, 200.0).split()
    assert [place for place, name in enumerate(order) if name == "bulk"] == [7, 15, 23]


def test_nothing_ages_before_its_patience_is_over() -> None:
    queue = make_queue(
        make_ticket("bulk", band="bulk"),
        *(make_ticket("now", band="interactive", arrived=119.0) for _ in range(20)),
    )
    assert take_all(queue, 119.0).endswith("now bulk")


def test_reserved_places_are_for_keys_below_their_share() -> None:
    queue = make_queue(*(make_ticket(f"busy{number}", key="busy") for number in range(20)))
    for _ in range(15):
        take_one(queue)
    assert queue.first(0.0, reserved=True, slots=16) is not None  # alone: its share is everything
    assert queue.offer(make_ticket("light", key="light"), 0.0, slots=16) is None
    ticket = queue.first(0.0, reserved=True, slots=16)
    assert ticket is not None
    assert ticket.item == "light"
    assert queue.may_use_reserve(ticket, 16)
    queue.take(ticket)
    assert queue.first(0.0, reserved=True, slots=16) is None
    assert queue.first(0.0, reserved=False, slots=16) is not None


def test_a_key_beyond_its_share_of_all_places_may_not_use_the_reserve() -> None:
    queue = make_queue()
    queue.pass_by(make_ticket(key="light"))
    for _ in range(2):
        assert queue.may_use_reserve(make_ticket(key="busy"), 4)
        queue.pass_by(make_ticket(key="busy"))
    assert not queue.may_use_reserve(make_ticket(key="busy"), 4)
    assert queue.may_use_reserve(make_ticket(key="light"), 4)


def test_a_key_with_far_fewer_requests_than_another_may_use_the_reserve_beyond_an_equal_share() -> None:
    """12 + 2 of one key and ten others' one each: a key of the average running request has 158 / 24 = 6.6."""
    queue = make_queue()
    keys = ["busy"] * 12 + ["light"] * 2 + [f"other{number}" for number in range(10)]
    running = [make_ticket(key=key) for key in keys]
    for ticket in running:
        queue.pass_by(ticket)
    assert queue.may_use_reserve(make_ticket(key="light"), 24), "an equal share of 24 places is two"
    assert not queue.may_use_reserve(make_ticket(key="busy"), 24)
    for ticket in running[:11]:
        queue.settle(ticket, prompt_tokens=1, output_tokens=1, seconds=1.0)
    assert not queue.may_use_reserve(make_ticket(key="light"), 24), "it is the one that has most now"


def test_forgetting_idle_keys_keeps_the_map_bounded() -> None:
    queue: BandQueue[str] = BandQueue()
    busy = make_ticket(key="busy")
    queue.pass_by(busy)
    for number in range(band_module.MOST_FLOWS + 100):
        ticket = make_ticket(key=str(number))
        queue.pass_by(ticket)
        queue.settle(ticket, 1, 1)
    assert len(queue._flows) == band_module.MOST_FLOWS
    assert "busy" in queue._flows
    assert queue.busy_weight == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "pass", "take", "back", "end", "drop"]),
            st.integers(0, 4),
            st.integers(1, 3000),
        ),
        max_size=150,
    )
)
def test_no_request_is_lost_or_doubled_and_all_accounts_close(steps: list[tuple[str, int, int]]) -> None:
    queue = make_queue()
    waiting: dict[int, Ticket[str]] = {}
    running: list[Ticket[str]] = []
    for step, number, tokens in steps:
        ticket = make_ticket(key=str(number), band=BANDS[number % 4], prompt_tokens=tokens, patience=tokens)
        if step == "offer":
            assert queue.offer(ticket, 0.0, slots=8) is None
            waiting[ticket.number] = ticket
        elif step == "pass" and not queue:
            queue.pass_by(ticket)
            running.append(ticket)
        elif step == "take" and (found := queue.first(0.0, reserved=False, slots=8)) is not None:
            queue.take(found)
            assert waiting.pop(found.number) is found
            running.append(found)
        elif step == "back" and running:
            back = running.pop(number % len(running))
            queue.put_back(back)
            waiting[back.number] = back
        elif step == "end" and running:
            ended = running.pop(number % len(running))
            queue.settle(ended, prompt_tokens=tokens, output_tokens=tokens, seconds=0.0)
        elif step == "drop" and waiting:
            dropped = waiting.pop(next(iter(waiting)))
            assert queue.discard(dropped)
            assert not queue.discard(dropped)
        assert len(queue) == len(waiting) == len(queue.everything())
        assert (queue.first(0.0, reserved=False, slots=8) is None) == (not waiting)
    for ticket in waiting.values():
        assert queue.discard(ticket)
    for ticket in running:
        queue.settle(ticket, prompt_tokens=0, output_tokens=0, seconds=0.0)
    assert [band.busy_weight for band in queue._bands] == [0] * 4
    assert [(band.running, band.crowding) for band in queue._bands] == [(0, 0.0)] * 4
    assert [band.waiting_work for band in queue._bands] == [0.0] * 4


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 2000)), min_size=20, max_size=80))
def test_two_keys_that_both_wait_are_never_further_apart_than_one_request(
    requests: list[tuple[str, int]],
) -> None:
    """Since the one that was served less is next: by the largest request, with its expected output."""
    queue = make_queue(*(make_ticket(key, key=key, prompt_tokens=tokens) for key, tokens in requests))
    served = {"a": 0.0, "b": 0.0}
    largest = max(tokens for _, tokens in requests) + 512.0
    left = {key: sum(name == key for name, _ in requests) for key in "ab"}
    while all(left.values()):
        ticket = queue.first(0.0, reserved=False, slots=1)
        assert ticket is not None
        queue.take(ticket)
        served[ticket.key] += ticket.work
        left[ticket.key] -= 1
        assert abs(served["a"] - served["b"]) <= largest
