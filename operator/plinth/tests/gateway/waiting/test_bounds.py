"""Who is refused, and what the refused are told."""

from __future__ import annotations

import pytest

from plinth.gateway.waiting.pace import Pace
from plinth.gateway.waiting.queue import Reason
from plinth.gateway.waiting.refusals import refusal
from plinth.tests.gateway.waiting.builders import learn_pace, make_queue, make_ticket, take_all


def test_beyond_the_bound_the_key_that_waits_most_is_refused() -> None:
    queue = make_queue(*(make_ticket(str(number)) for number in range(3)), requests=3)
    ticket = make_ticket("one more")
    rejection = queue.offer(ticket, 0.0, slots=1)
    assert rejection is not None
    assert rejection.ticket is ticket
    assert rejection.reason is Reason.FULL
    assert take_all(queue) == "0 1 2"


def test_the_longest_line_gives_way_to_a_key_that_has_less() -> None:
    queue = make_queue(*(make_ticket(str(number), key="busy") for number in range(3)), requests=3)
    rejection = queue.offer(make_ticket("light", key="light"), 0.0, slots=1)
    assert rejection is not None
    assert rejection.ticket.item == "2"
    assert take_all(queue) == "0 light 1"


def test_a_less_urgent_band_gives_way() -> None:
    queue = make_queue(make_ticket("bulk", band="bulk"), make_ticket("default"), requests=2)
    rejection = queue.offer(make_ticket("urgent", band="interactive"), 0.0, slots=1)
    assert rejection is not None
    assert rejection.ticket.item == "bulk"
    assert take_all(queue) == "urgent default"


def test_a_less_urgent_request_displaces_nobody() -> None:
    queue = make_queue(make_ticket("a"), make_ticket("b"), requests=2)
    ticket = make_ticket("bulk", band="bulk", key="other")
    rejection = queue.offer(ticket, 0.0, slots=1)
    assert rejection is not None
    assert rejection.ticket is ticket


def test_bodies_are_bounded_in_bytes() -> None:
    queue = make_queue(
        make_ticket("a", body_bytes=600, key="busy"),
        make_ticket("b", body_bytes=300, key="busy"),
        total_bytes=1000,
    )
    large = make_ticket("large", body_bytes=500, key="other")
    rejection = queue.offer(large, 0.0, slots=1)  # the 300 bytes of "b" would not be enough
    assert rejection is not None
    assert rejection.ticket is large
    assert queue.offer(make_ticket("small", body_bytes=100, key="other"), 0.0, slots=1) is None
    assert take_all(queue) == "a small b"


def test_a_request_that_comes_back_is_held_beyond_the_bound() -> None:
    queue = make_queue(ticket := make_ticket("a"), make_ticket("b"), requests=2)
    queue.take(ticket)
    assert queue.offer(make_ticket("c"), 0.0, slots=1) is None
    queue.put_back(ticket)
    assert take_all(queue) == "a b c"


def test_nothing_is_refused_for_its_deadline_before_the_pace_is_known() -> None:
    queue = make_queue(*(make_ticket(key="busy") for _ in range(500)))
    assert queue.predict(make_ticket(), 1) is None
    assert queue.offer(make_ticket(patience=0.1), 0.0, slots=1) is None


@pytest.mark.parametrize(("patience", "refused"), [(60.0, True), (70.0, True), (90.0, False), (200.0, False)])
def test_a_deadline_that_cannot_be_met_is_refused_at_once(patience: float, *, refused: bool) -> None:
    """100 requests of 100 + 2 x 256 tokens, 200 tokens in 2.7 s, 8 at a time: some 103 s, a fifth less at best."""
    queue = make_queue()
    learn_pace(queue, seconds=2.7)
    for _ in range(100):
        assert queue.offer(make_ticket(patience=9e9), 0.0, slots=8) is None
    rejection = queue.offer(make_ticket(patience=patience), 0.0, slots=8)
    assert (rejection is not None) is refused
    if rejection is not None:
        assert rejection.reason is Reason.LATE
        assert rejection.retry_seconds == pytest.approx(103.3 - patience, abs=0.1)


def test_what_others_wait_for_does_not_count_against_a_key_that_waits_for_little() -> None:
    queue = make_queue()
    learn_pace(queue, seconds=2.7)
    for _ in range(100):
        assert queue.offer(make_ticket(key="busy", patience=9e9), 0.0, slots=8) is None
    assert queue.predict(make_ticket(key="light"), 8) == 0.0
    busy = queue.predict(make_ticket(key="busy"), 8)
    assert busy is not None
    assert busy > 100
    assert queue.predict(make_ticket(key="busy", band="interactive"), 8) == 0.0
    assert queue.predict(make_ticket(key="light", band="bulk"), 8) == pytest.approx(busy)


def test_more_replicas_shorten_the_prediction() -> None:
    pace = Pace()
    for _ in range(20):
        pace.observe(work=1000, seconds=10)
    assert pace.seconds_for(50_000, slots=10) == pytest.approx(50.0)
    assert pace.seconds_for(50_000, slots=20) == pytest.approx(25.0)
    assert pace.seconds_for(50_000, slots=0) is None


def test_retry_after_is_the_time_in_which_half_of_a_full_queue_is_worked_off() -> None:
    queue = make_queue(requests=100)
    learn_pace(queue, seconds=2.7)
    for _ in range(100):
        assert queue.offer(make_ticket(patience=9e9), 0.0, slots=8) is None
    rejection = queue.offer(make_ticket(patience=9e9), 0.0, slots=8)
    assert rejection is not None
    answer = refusal(rejection, model="ns/qwen")
    assert (answer.status, answer.code, answer.retry_after) == (429, "queue_full", 52)
    assert "ns/qwen" in answer.message


def test_a_request_that_waited_in_vain_is_told_so_once_it_has() -> None:
    queue = make_queue(ticket := make_ticket(patience=30.0), make_ticket(patience=40.0))
    assert queue.expired(29.9, slots=1) == []
    (rejection,) = queue.expired(30.0, slots=1)
    assert rejection.ticket is ticket
    assert queue.discard(ticket)
    answer = refusal(rejection, model="ns/qwen", message="the model is loading")
    assert (answer.status, answer.code) == (503, "no_replica_ready")
    assert answer.message == "no replica of 'ns/qwen' had room within 30 s: the model is loading"


def test_a_refusal_for_the_deadline_says_so() -> None:
    queue = make_queue()
    learn_pace(queue, seconds=27)
    for _ in range(100):
        assert queue.offer(make_ticket(patience=9e9), 0.0, slots=8) is None
    rejection = queue.offer(make_ticket(patience=10), 0.0, slots=8)
    assert rejection is not None
    answer = refusal(rejection, model="ns/qwen")
    assert (answer.status, answer.code) == (429, "queue_too_long")
    assert answer.retry_after is not None
    assert answer.retry_after > 600 - 1


def test_a_thousand_requests_for_a_sleeping_model_wake_it_once() -> None:
    queue = make_queue()
    woken = 0
    for number in range(1000):
        assert queue.offer(make_ticket(), number / 1000, slots=0) is None
        woken += queue.wake_up_due(number / 1000)
    assert woken == 1


def test_a_queue_that_flickers_wakes_at_most_once_a_second() -> None:
    queue, woken = make_queue(), 0
    for number in range(100):
        ticket = make_ticket()
        assert queue.offer(ticket, number / 40, slots=0) is None
        woken += queue.wake_up_due(number / 40)
        assert queue.discard(ticket)
    assert woken == 3
