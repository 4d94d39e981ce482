"""The fuzzer runs, and finds nothing in its first few thousand trials: the same ones each time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from plinth.tests.gateway.shell.properties import PROPERTIES
from plinth.tests.gateway.shell.seeds import SEEDS

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-fuzz/bin/python"
TRIALS = 3000

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not (PYTHON.exists() or os.environ.get("CI")), reason="no fuzzer here: make .venv-fuzz/.installed"
    ),
]


@pytest.mark.parametrize("name", PROPERTIES)
def test_bytes_from_outside_do_no_harm(name: str) -> None:
    ran = subprocess.run(
        [str(PYTHON), "e2e/fuzz/run.py", "--trials", str(TRIALS), "1", name],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "operator"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{name}: {TRIALS} trials, held" in ran.stdout


def test_every_property_has_seeds() -> None:
    assert SEEDS.keys() == PROPERTIES.keys()
