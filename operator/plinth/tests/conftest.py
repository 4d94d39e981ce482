"""How Hypothesis searches: anew on every run of a person's, the same cases in CI.

CI judges the change at hand; a case that it came upon by chance would fail somebody else's.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
