"""How Hypothesis searches: anew on every run of a person's, the same cases in CI.

CI judges the change at hand; a case that it came upon by chance would fail somebody else's. `make check` asks for the
profile `quick`.
"""

from __future__ import annotations

import os

from hypothesis import settings

from plinth.tests.searching import QUICK, QUICK_SHARE

# Without a deadline for one example, as `examples` says.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile(QUICK, deadline=None, max_examples=100 // QUICK_SHARE)  # Hypothesis has 100
settings.load_profile("ci" if os.environ.get("CI") else "person")
