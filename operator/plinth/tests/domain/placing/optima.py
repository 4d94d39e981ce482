"""Asks the exact solver, which lives in an environment of its own; `make .venv-exact/.installed` makes it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from plinth.tests.domain.placing.instances import Outcome

ROOT = Path(__file__).parents[5]
PYTHON = ROOT / ".venv-exact/bin/python"
SECONDS_A_FLEET = 2.0
"""Far more than one takes on average."""


def find_optima(fleets: range) -> dict[int, Outcome | None]:
    """The optimum of each fleet, by its seed."""
    command = [str(PYTHON), "-m", f"{__package__}.exact", str(fleets.start), str(fleets.stop)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT / "operator")},
        stdout=subprocess.PIPE,
        timeout=SECONDS_A_FLEET * len(fleets),
        check=True,
    )
    answers = (json.loads(line) for line in done.stdout.splitlines())
    return {each["seed"]: _outcome(each["optimum"]) for each in answers}


def _outcome(found: dict[str, Any] | None) -> Outcome | None:
    return None if found is None else Outcome(**{**found, "placed": frozenset(found["placed"])})
