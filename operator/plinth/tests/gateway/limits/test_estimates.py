"""How many tokens a request is expected to use."""

from __future__ import annotations

import random

import pytest

from plinth.gateway.limits.estimates import TokenEstimates


def test_four_bytes_are_a_token_until_the_model_has_taught_its_own() -> None:
    known = TokenEstimates()
    assert known.input_tokens("m", 4000) == 1001
    for _ in range(200):
        known.learn_input("m", 3000, 1500)
    assert known.input_tokens("m", 4000) == pytest.approx(2000, rel=0.01)
    assert known.input_tokens("other", 4000) == 1001


def test_one_image_does_not_ruin_the_mean() -> None:
    known = TokenEstimates()
    known.learn_input("m", 8_000_000, 1000)
    assert known.input_tokens("m", 4000) > 500


def test_the_reserve_for_an_answer_is_what_all_but_one_in_twenty_stay_below() -> None:
    known, draw = TokenEstimates(), random.Random(1)  # noqa: S311 - a draw that repeats
    for _ in range(2000):
        known.learn_output("k", "m", int(draw.expovariate(1 / 300)))
    below, reserves = 0, []
    for _ in range(4000):
        reserve, tokens = known.output_tokens("k", "m", None), int(draw.expovariate(1 / 300))
        known.learn_output("k", "m", tokens)
        below += tokens <= reserve
        reserves.append(reserve)
    assert below / 4000 == pytest.approx(0.95, abs=0.01)
    assert sum(reserves) / 4000 == pytest.approx(899, rel=0.15)  # 300 ln 20


def test_no_more_is_reserved_than_the_request_allows() -> None:
    known = TokenEstimates()
    assert known.output_tokens("k", "m", 16) == 16
    assert known.output_tokens("k", "m", 100_000) == 256
    assert known.output_tokens("k", "m", 0) == 0


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    known = TokenEstimates(remembered=3)
    for name in "abcabcd":
        known.learn_output(name, "m", 5000)
    first = known.output_tokens("new", "m", None)
    assert [known.output_tokens(name, "m", None) > first for name in "abcd"] == [False, True, True, True]
