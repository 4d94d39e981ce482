"""All limits of a request together: counted or refused as one, settled by what was used, told to the client."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.access import DAY, HOUR
from plinth.gateway.limits import admission
from plinth.gateway.limits.admission import Limiter, Reservation
from plinth.gateway.limits.answers import Denial, format_duration
from plinth.gateway.protocol.errors import error_body, error_headers
from plinth.tests.gateway.limits.builders import make_account, make_limit, read_lines


def used(account: admission.Account, now: float) -> list[float]:
    return [meter.counter.used(now) for meter in account.meters]


def reserved(outcome: Reservation | Denial | None) -> Reservation:
    assert isinstance(outcome, Reservation)
    return outcome


def denied(outcome: Reservation | Denial | None) -> Denial:
    assert isinstance(outcome, Denial)
    return outcome


def test_a_refused_request_counts_nowhere() -> None:
    limiter = Limiter()
    account = make_account(
        limiter, make_limit("requests", 10), make_limit("inputTokens", 100), make_limit("outputTokens", 50)
    )
    reserved(limiter.admit(account, 60, 30, 0.0))
    denied(limiter.admit(account, 10, 30, 0.0))
    assert used(account, 0.0) == [1, 60, 30]


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(1, 80), st.integers(0, 60), st.booleans(), st.integers(0, 60))
    )
)
def test_every_counter_agrees_with_what_was_let_through(
    requests: list[tuple[float, int, int, bool, int]],
) -> None:
    limiter, now = Limiter(), 0.0
    account = make_account(
        limiter,
        make_limit("requests", 8, HOUR),
        make_limit("inputTokens", 200, HOUR),
        make_limit("totalTokens", 400, HOUR),
        make_limit("concurrency", 3),
    )
    totals, under_way = [0, 0, 0], 0
    for pause, inputs, outputs, ends, actual in requests:
        now += pause
        outcome = limiter.admit(account, inputs, outputs, now)
        if isinstance(outcome, Reservation):
            if ends:
                limiter.settle(outcome, inputs, actual, now)
            reserve = actual if ends else outcome.costs[3] - inputs
            totals = [totals[0] + 1, totals[1] + inputs, totals[2] + inputs + reserve]
            under_way += not ends
        assert used(account, now) == [*totals, under_way]


def test_what_was_reserved_and_not_used_can_be_used_by_others() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("totalTokens", 1000))
    first = reserved(limiter.admit(account, 100, 800, 0.0))
    denied(limiter.admit(account, 100, 100, 0.0))
    limiter.settle(first, 120, 30, 0.0)
    assert used(account, 0.0) == [150]
    reserved(limiter.admit(account, 100, 100, 0.0))


def test_a_request_that_reached_no_replica_counts_nowhere() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("requests"), make_limit("concurrency", 1))
    limiter.cancel(reserved(limiter.admit(account, 1, 1, 0.0)), 1.0)
    assert used(account, 1.0) == [0, 0]


def test_a_reserve_larger_than_the_limit_does_not_keep_a_key_out_for_ever() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("outputTokens", 100), make_limit("totalTokens", 150))
    assert reserved(limiter.admit(account, 80, 5000, 0.0)).costs[2:4] == [100, 150]


def test_an_output_limit_that_is_overdrawn_does_not_stop_requests_without_output() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("outputTokens", 100))
    limiter.settle(reserved(limiter.admit(account, 5, 50, 0.0)), 5, 500, 0.0)
    denied(limiter.admit(account, 5, 1, 0.0))
    reserved(limiter.admit(account, 5, 0, 0.0))


def test_keys_share_what_is_limited_by_policy_and_by_model_and_nothing_else() -> None:
    limiter = Limiter()
    limits = [make_limit(scope="key"), make_limit(scope="policy"), make_limit(scope="model")]
    one = make_account(limiter, *limits, key="pk_1", model="a/m")
    two = make_account(limiter, *limits, key="pk_2", model="a/m")
    three = make_account(limiter, *limits, key="pk_1", model="a/n")
    reserved(limiter.admit(one, 1, 1, 0.0))
    assert (used(one, 0), used(two, 0), used(three, 0)) == ([1, 1, 1], [0, 1, 1], [1, 1, 0])


def test_a_new_table_changes_the_limit_and_not_what_was_used() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit(amount=3))
    for _ in range(3):
        reserved(limiter.admit(account, 1, 1, 0.0))
    limiter.forget_accounts()
    raised = make_account(limiter, make_limit(amount=4))
    reserved(limiter.admit(raised, 1, 1, 0.0))
    denied(limiter.admit(raised, 1, 1, 0.0))


def test_counters_are_forgotten_only_when_they_count_nothing() -> None:
    limiter = Limiter(counters_kept=2, accounts_kept=1)
    busy = make_account(limiter, make_limit(amount=1), key="busy")
    reserved(limiter.admit(busy, 1, 1, 0.0))
    for number in range(50):
        make_account(limiter, make_limit(), key=f"pk_{number}")
    assert len(limiter._counters) < 50
    denied(limiter.admit(make_account(limiter, make_limit(amount=1), key="busy"), 1, 1, 0.0))


def test_a_rate_is_refused_with_429_and_the_time_to_come_back() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("requests", 60))
    for _ in range(60):
        reserved(limiter.admit(account, 1, 1, 0.0))
    denial = denied(limiter.admit(account, 1, 1, 0.0))
    error = json.loads(error_body(denial.refusal))["error"]
    assert (denial.refusal.status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert "requests per minute of policy a/p: limit 60, used 60, requested 1" in error["message"]
    headers = dict([*error_headers(denial.refusal), *denial.headers])
    assert 1000 <= int(headers[b"retry-after-ms"]) <= 1101
    assert headers[b"retry-after"] in {b"1", b"2"}
    assert headers[b"x-should-retry"] == b"true"


def test_an_exhausted_quota_is_refused_with_403_and_ends_retries() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("outputTokens", 100, DAY), make_limit("requests", 2, 1))
    reserved(limiter.admit(account, 1, 100, 0.0))
    refusal = denied(limiter.admit(account, 1, 1, 0.5)).refusal
    assert (refusal.status, refusal.code, refusal.should_retry) == (403, "insufficient_quota", False)
    assert "output tokens per day" in refusal.message


def test_a_wait_that_clients_do_not_keep_is_not_to_be_retried() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("requests", 1, HOUR))
    reserved(limiter.admit(account, 1, 1, 0.0))
    refusal = denied(limiter.admit(account, 1, 1, 0.0)).refusal
    assert (refusal.status, refusal.should_retry) == (429, False)
    assert refusal.retry_after is not None
    assert refusal.retry_after >= 3600


def test_a_request_larger_than_its_limit_is_told_so() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("inputTokens", 100))
    denial = denied(limiter.admit(account, 101, 1, 0.0))
    assert denial.refusal.should_retry is False
    assert denial.refusal.retry_after is None
    assert denial.headers == ()
    assert "too large" in denial.refusal.message


def test_clients_refused_together_come_back_apart() -> None:
    limiter = Limiter()
    account = make_account(limiter, make_limit("requests", 1))
    reserved(limiter.admit(account, 1, 1, 0.0))
    waits = {denied(limiter.admit(account, 1, 1, 0.0)).headers[0][1] for _ in range(20)}
    assert len(waits) == 20
    assert all(60_000 <= int(wait) <= 66_000 for wait in waits)


def test_headers_tell_of_the_limit_that_is_nearest_to_its_end() -> None:
    limiter = Limiter()
    account = make_account(
        limiter,
        make_limit("requests", 100),
        make_limit("inputTokens", 1000, 60),
        make_limit("outputTokens", 400, DAY),
        make_limit("concurrency", 1),
    )
    reserved(limiter.admit(account, 200, 200, 0.0))
    assert read_lines(limiter.headers(account, 30.0)) == {
        b"x-ratelimit-limit-requests": b"100",
        b"x-ratelimit-remaining-requests": b"100",
        b"x-ratelimit-reset-requests": b"0ms",
        b"x-ratelimit-limit-tokens": b"400",
        b"x-ratelimit-remaining-tokens": b"200",
        b"x-ratelimit-reset-tokens": b"24h23m30s",
    }


def test_an_account_without_limits_lets_everything_through_and_tells_nothing() -> None:
    limiter = Limiter()
    account = make_account(limiter)
    limiter.settle(reserved(limiter.admit(account, 10**9, 10**9, 0.0)), 1, 1, 1.0)
    assert limiter.headers(account, 1.0) == b""


@given(st.floats(0, 200_000))
def test_a_duration_is_never_told_shorter_than_it_is(seconds: float) -> None:
    text, total = format_duration(seconds), 0.0
    if text.endswith("ms"):
        total = int(text[:-2]) / 1000
    else:
        for unit, worth in (("h", 3600), ("m", 60), ("s", 1)):
            if unit in text:
                number, text = text.split(unit)
                total += float(number) * worth
    assert seconds - 1e-3 <= total <= seconds + 1
