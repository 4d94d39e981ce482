from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.sizing.batching import Capacity, ClosedLoop, Served, Spread, serve
from plinth.domain.sizing.steps import Batch


@dataclass(frozen=True)
class Metronome:
    """A step takes a beat, and another for each prompt token."""

    beat: float = 10.0
    token: float = 1.0
    handing: float = 0.0

    def step_microseconds(self, batch: Batch) -> float:
        return self.beat + self.token * batch.prompt

    def handing_microseconds(self, batch: Batch) -> float:
        return self.handing * batch.decoding


def run(
    *,
    tokens: int = 100,
    seats: int = 1000,
    admission: float = 0.0,
    stages: int = 1,
    clock: Metronome = Metronome(),
    **loop: int,
) -> Served:
    capacity = Capacity(step_tokens=tokens, requests=seats, admission_microseconds=admission, stages=stages)
    return serve(clock, ClosedLoop(**loop), capacity)


def test_one_user_reads_the_prompt_and_then_gets_a_token_a_step() -> None:
    found = run(users=1, requests=1, input_tokens=50, output_tokens=5)
    assert found.ttft == Spread(((60.0, 1),))
    assert found.tpot == Spread(((10.0, 1),))
    assert found.duration == 60.0 + 4 * 10.0


def test_a_prompt_longer_than_a_step_is_read_in_pieces() -> None:
    found = run(users=1, requests=1, input_tokens=250, output_tokens=2)
    assert found.ttft.values == ((110.0 + 110.0 + 60.0, 1),)


def test_prompts_that_come_at_once_wait_for_each_other() -> None:
    """The engine starts on the first alone; two steps later the others are read, two and a bit in a step."""
    found = run(users=5, requests=5, input_tokens=50, output_tokens=50, tokens=110)
    times = [value for value, count in found.ttft.values for _ in range(count)]
    joined = 60.0 + 10.0
    assert times == [60.0, joined + 119.0, joined + 119.0, joined + 119.0 + 101.0, joined + 119.0 + 101.0]


def test_one_user_waits_for_the_front_end_each_time() -> None:
    """20 in the front end, 60 for the prompt; the answer's last token, and the same again."""
    found = run(users=1, requests=2, input_tokens=50, output_tokens=2, admission=20.0)
    assert found.ttft == Spread(((80.0, 1), (80.0, 1)))
    assert found.duration == 2 * (80.0 + 10.0)


def test_those_in_the_front_end_together_leave_it_together() -> None:
    """Five prompts fit a step; whoever comes to an idle engine goes in as soon as all five have passed, alone."""
    found = run(users=5, requests=5, input_tokens=10, output_tokens=50, admission=30.0)
    passed = 5 * 30.0
    first, others = found.ttft.values
    assert first == (passed + 20.0, 1)
    assert others == (passed + 20.0 + 10.0 + 50.0, 4)


def test_requests_wait_while_the_front_end_hands_out_tokens() -> None:
    """Handing out takes as long as the steps: those who ask while others write get through when these are done."""
    quick, busy = (
        run(
            users=8,
            requests=16,
            input_tokens=50,
            output_tokens=20,
            admission=15.0,
            clock=Metronome(handing=each),
        )
        for each in (0.0, 5.0)
    )
    assert busy.ttft.percentiles(50)[0] > 1.1 * quick.ttft.percentiles(50)[0]


def test_answers_that_end_a_step_apart_are_asked_anew_together() -> None:
    """Without a front end each of the later ones waits for the prompts of those before it, and is read alone."""
    apart, together = (
        run(users=8, requests=16, input_tokens=90, output_tokens=30, admission=each) for each in (0.0, 15.0)
    )
    assert together.ttft.percentiles(50)[0] > 1.3 * apart.ttft.percentiles(50)[0]


def test_who_writes_waits_while_others_are_read() -> None:
    alone = run(users=1, requests=1, input_tokens=50, output_tokens=20)
    many = run(users=9, requests=9, input_tokens=50, output_tokens=20)
    assert many.tpot.percentiles(99)[0] > alone.tpot.percentiles(50)[0]


def test_those_who_find_no_seat_wait_for_one() -> None:
    free, short = (
        run(users=4, requests=4, input_tokens=10, output_tokens=10, seats=seats) for seats in (4, 2)
    )
    assert short.ttft.percentiles(99)[0] > free.ttft.percentiles(99)[0] + 80.0


def test_everybody_asks_again_until_all_is_asked() -> None:
    found = run(users=3, requests=10, input_tokens=10, output_tokens=4)
    assert found.requests == 10
    assert sum(count for _, count in found.ttft.values) == 10


def test_a_model_that_generates_nothing_answers_when_it_has_read() -> None:
    found = run(users=1, requests=2, input_tokens=50, output_tokens=0)
    assert found.requests == 2
    assert found.tpot.percentiles(50)[0] == 0.0


@pytest.mark.parametrize(("percent", "value"), [(1, 1.0), (50, 1.0), (51, 2.0), (90, 2.0), (99, 3.0)])
def test_a_percentile_is_the_least_value_that_so_many_stay_under(percent: int, value: float) -> None:
    assert Spread(((1.0, 50), (2.0, 40), (3.0, 10))).percentiles(percent)[0] == value


@given(
    users=st.integers(1, 60),
    more=st.integers(0, 100),
    tokens_in=st.integers(1, 400),
    tokens_out=st.integers(0, 40),
    step=st.integers(60, 500),
    seats=st.integers(1, 80),
)
def test_every_request_is_answered_once_and_no_time_is_negative(  # noqa: PLR0917 - drawn one by one
    users: int, more: int, tokens_in: int, tokens_out: int, step: int, seats: int
) -> None:
    found = run(
        users=users,
        requests=users + more,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        tokens=step,
        seats=min(seats, step - 1),
    )
    assert found.requests == users + more
    for spread in (found.ttft, found.tpot):
        assert sum(count for _, count in spread.values) == users + more
        assert all(value >= 0 for value, _ in spread.values)
    assert found.duration >= found.ttft.percentiles(99)[0] * (1 if more == 0 else 0)


def test_one_user_of_a_pipeline_waits_for_all_of_its_stages() -> None:
    alone, piped = (run(users=1, requests=2, input_tokens=50, output_tokens=5, stages=n) for n in (1, 2))
    assert piped.ttft.percentiles(50)[0] == alone.ttft.percentiles(50)[0]
    assert piped.duration == alone.duration


def test_who_waits_joins_one_batch_of_a_pipeline_together() -> None:
    """Each first batch takes one user; by then all others have come, and go through both stages in one batch."""
    found = run(users=6, requests=6, input_tokens=20, output_tokens=40, stages=2)
    times = [value for value, count in found.ttft.values for _ in range(count)]
    assert times[:2] == [30.0, 45.0]
    assert times[2:] == [30.0 + 10.0 + 80.0] * 4


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 200), st.integers(1, 30), st.integers(1, 20))
def test_a_pipeline_answers_everybody_and_no_later_than_one_stage_after_another(
    stages: int, users: int, input_tokens: int, output_tokens: int, seats: int
) -> None:
    piped, alone = (
        run(
            users=users,
            requests=3 * users,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            stages=each,
            seats=seats,
        )
        for each in (stages, 1)
    )
    assert piped.requests == alone.requests == 3 * users
    assert sum(count for _, count in piped.ttft.values) == 3 * users
    assert piped.duration <= alone.duration * 1.5 + 1000
