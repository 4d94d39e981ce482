"""How requests are shared out between a model, its canary and what only watches."""

from __future__ import annotations

from collections import Counter

import pytest

from plinth.domain.traffic import TrafficShare
from plinth.gateway.routing.weights import mirrors, taker, ticket


def share(model: str, percent: int = 0, mirror: int = 0) -> TrafficShare:
    return TrafficShare(model=model, percent=percent, mirror_percent=mirror)


CANARY = (share("t/canary", 5),)


@pytest.mark.parametrize("start", [0, 1_000_000, 2**40])
def test_a_canary_gets_its_share_one_by_one(start: int) -> None:
    drawn = [taker(CANARY, ticket(number)) for number in range(start, start + 1000)]
    assert Counter(drawn)["t/canary"] in range(49, 52)
    for window in range(0, 1000, 100):
        assert 3 <= drawn[window : window + 100].count("t/canary") <= 7


def test_any_shares_are_met_in_the_long_run() -> None:
    shares = (share("b", 25), share("c"), share("d", 60))
    counts = Counter(taker(shares, ticket(number)) for number in range(8000))
    assert counts["b"] == pytest.approx(2000, abs=10)
    assert counts["d"] == pytest.approx(4800, abs=10)
    assert counts[None] == pytest.approx(1200, abs=10)
    assert counts["c"] == 0


def test_a_session_meets_one_model_and_sessions_fall_evenly() -> None:
    assert ticket(1, "talk") == ticket(2, "talk")
    counts = Counter(taker(CANARY, ticket(0, f"session-{number}")) for number in range(10_000))
    assert counts["t/canary"] == pytest.approx(500, abs=100)


def test_copies_are_made_of_requests_whoever_answers_them() -> None:
    shares = (share("t/canary", 5), share("t/watches", 0, 10))
    copied = [number for number in range(10_000) if mirrors(shares, number) == ["t/watches"]]
    assert len(copied) == pytest.approx(1000, abs=5)
    assert sum(taker(shares, ticket(number)) == "t/canary" for number in copied) == pytest.approx(50, abs=5)
    assert not any(mirrors(CANARY, number) for number in range(100))
    assert all(mirrors((share("w", 0, 100),), number) for number in range(100))
