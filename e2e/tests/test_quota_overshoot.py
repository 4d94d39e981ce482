"""Four processes, one real Redis: what the benchmark of shared limits measures, small."""

from __future__ import annotations

from pathlib import Path

import pytest
from quota_overshoot import LIMITS, Passed, limits_of, overshoots, run, worst

pytestmark = pytest.mark.process


def test_what_is_above_a_rate_at_any_time_counts_however_little_it_is_later() -> None:
    limit = LIMITS[0]
    assert limit in limits_of(0)
    burst = [Passed(0, 10.0, 10.5, 1, 1)] * (limit.amount + 1)
    assert overshoots(burst, limit, 10.0) == [pytest.approx(1 / (limit.amount * 11))]
    steady = [Passed(0, 10.0 + at / limit.amount, 99.0, 1, 1) for at in range(100)]
    assert overshoots(steady, limit, 10.0)[0] < 0


def test_requests_under_way_at_once_are_what_concurrency_counts() -> None:
    limit = LIMITS[4]
    one_by_one = [Passed(4, float(at), at + 1.0, 1, 1) for at in range(10)]
    assert overshoots(one_by_one, limit, 10.0) == [(1 - limit.amount) / limit.amount]


async def test_four_gateways_stay_within_their_limits(tmp_path: Path) -> None:
    found = await run(tmp_path, keys=20, seconds=5, answer=1.0)
    shares = worst(found, 5)
    assert len(found.passed) > 500, "too little was let through"
    assert found.asked > 1.25 * len(found.passed), "the limits were not reached"
    # Tokens of answers are known too late; here few answers make up the whole.
    assert shares.pop("outputTokens_per_10_s") <= 5.0, shares
    assert max(shares.values()) <= 1.0, shares
