"""How often a lease tells the shared counters."""

from __future__ import annotations

import pytest

from plinth.domain.access import Limit
from plinth.gateway.limits.lease import Backend, Lease, Report
from plinth.tests.gateway.limits.builders import make_limit

TICKS_A_SECOND = 20


def answer(lease: Lease, told: Report, now: float) -> None:
    """As shared counters do that have room for everything."""
    lease.learn(told.want, used=told.settle + told.want, wait=0.0, need=0.0, now=now)


@pytest.mark.parametrize(
    "limit", [make_limit("concurrency", 10_000), make_limit("requests", 1_000_000, window=60)]
)
def test_far_from_its_limit_a_lease_reports_about_once_a_second_however_many_requests_pass(
    limit: Limit,
) -> None:
    lease = Lease("limit", limit, Backend(away=False, gateways=2), tenant="team", lives_alone=True)
    reports = 0
    for tick in range(5 * TICKS_A_SECOND):
        now = 100 + tick / TICKS_A_SECOND
        for _ in range(10):
            if not lease.take(1, now):
                answer(lease, lease.report(1, 1, now), now)
                assert lease.take(1, now)
            if limit.dimension == "concurrency":
                lease.give_back(1, now, now)
        if lease.is_due(now):
            answer(lease, lease.report(0, 0, now), now)
            reports += 1
    assert reports <= 12
