"""How requests are shared out between revisions."""

from __future__ import annotations

from collections import Counter

import pytest

from plinth.gateway.routing.weights import RevisionShares, is_mirrored, session_ticket, ticket
from plinth.tests.gateway.routing.builders import make_standing

SHARES = RevisionShares({"stable": 95, "canary": 5})


def narrow(*standings: object, to: str) -> list[str]:
    wanted = next(drawn for drawn in (number / 1000 for number in range(1000)) if SHARES.drawn(drawn) == to)
    every = list(standings)
    roomy = [item for item in every if item.available and item.in_flight < item.concurrency]  # type: ignore[attr-defined]
    return [item.slot for item in SHARES.narrow(every, roomy, wanted)]  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [0, 1_000_000, 2**40])
def test_a_canary_gets_its_share_one_by_one(start: int) -> None:
    drawn = [SHARES.drawn(ticket(number)) for number in range(start, start + 1000)]
    assert Counter(drawn)["canary"] in range(49, 52)
    for window in range(0, 1000, 100):
        assert 3 <= drawn[window : window + 100].count("canary") <= 7


def test_any_weights_are_met_in_the_long_run() -> None:
    shares = RevisionShares({"a": 1, "b": 2, "c": 0, "d": 5})
    counts = Counter(shares.drawn(ticket(number)) for number in range(8000))
    assert counts["a"] == pytest.approx(1000, abs=5)
    assert counts["b"] == pytest.approx(2000, abs=5)
    assert counts["c"] == 0


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="must add up to more than 0"):
        RevisionShares({"a": 0})


def test_a_session_meets_one_revision_and_sessions_fall_evenly() -> None:
    assert session_ticket("talk") == session_ticket("talk")
    counts = Counter(SHARES.drawn(session_ticket(f"session-{number}")) for number in range(4000))
    assert 140 < counts["canary"] < 260


def test_mirrored_requests_come_from_both_revisions_alike() -> None:
    mirrored = [number for number in range(10_000) if is_mirrored(number, 0.2)]
    assert len(mirrored) == pytest.approx(2000, abs=10)
    of_canary = sum(SHARES.drawn(ticket(number)) == "canary" for number in mirrored)
    assert of_canary == pytest.approx(100, abs=10)
    assert not any(is_mirrored(number, 0.0) for number in range(100))
    assert all(is_mirrored(number, 1.0) for number in range(100))


def test_a_request_goes_to_the_revision_that_it_drew() -> None:
    stable, canary = make_standing("s", revision="stable"), make_standing("c", revision="canary")
    assert narrow(stable, canary, to="stable") == ["s"]
    assert narrow(stable, canary, to="canary") == ["c"]


def test_a_full_canary_leaves_its_requests_to_the_main_revision() -> None:
    canary = make_standing("c", revision="canary", concurrency=0)
    assert narrow(make_standing("s", revision="stable"), canary, to="canary") == ["s"]


def test_a_full_main_revision_does_not_flood_its_canary() -> None:
    stable = make_standing("s", revision="stable", concurrency=0)
    canary = make_standing("c", revision="canary")
    assert narrow(stable, canary, to="stable") == []
    assert narrow(stable, canary, to="canary") == ["c"]


def test_when_the_main_revision_is_gone_all_others_of_any_weight_serve() -> None:
    stable = make_standing("s", revision="stable", available=False)
    canary, watched = make_standing("c", revision="canary"), make_standing("w", revision="watched")
    assert narrow(stable, canary, watched, to="stable") == ["c"]
