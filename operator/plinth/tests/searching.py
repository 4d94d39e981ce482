"""How long Hypothesis searches: as long as a test says, and a fifth of it under the profile `quick`, for every save."""

from __future__ import annotations

from hypothesis import settings

QUICK = "quick"
QUICK_SHARE = 5


def examples(number: int) -> settings:
    """Try so many, without a deadline for one: a busy machine may stop for half a second, and pytest ends what hangs."""
    if settings.get_current_profile_name() == QUICK:
        number //= QUICK_SHARE
    return settings(max_examples=number, deadline=None)
