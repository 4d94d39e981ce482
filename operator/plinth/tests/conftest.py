"""How Hypothesis searches: anew on every run of a person's, the same cases in CI.

CI judges the change at hand; a case that it came upon by chance would fail somebody else's.
"""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline for one example: a busy machine may stop for half a second, and pytest's timeout ends what hangs.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "person")
