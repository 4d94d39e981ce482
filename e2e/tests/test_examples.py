"""The examples that this machine can serve, as a newcomer would run them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fleet import Fleet, make_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


def ask(fleet: Fleet, *, timeout: float) -> str:
    done = fleet.run(
        "up",
        str(fleet.folder),
        "--listen",
        f"127.0.0.1:{fleet.port}",
        "--ask",
        "What is the capital of France?",
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    assert fleet.processes() == []
    return done.stdout


@pytest.mark.parametrize("example", ["quickstart", "autoscaling"])
def test_an_example_prints_its_plan_and_answers(fleet: Fleet, example: str) -> None:
    for path in (ROOT / "examples" / example).glob("*.yaml"):
        shutil.copy(path, fleet.folder)
    said = ask(fleet, timeout=180)
    plan, _, answer = said.partition("> What is the capital of France?")
    assert "LlamaCpp: " in plan
    assert "TP1" in plan
    assert len(answer.split()) >= 2


@pytest.mark.vllm
def test_the_same_model_is_served_by_vllm_when_asked_for(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, python=str(VLLM_PYTHON))
    fleet.write(
        make_model(
            engine={"type": "VLLM", "args": {"enforce-eager": "true"}},
            objectives={"contextTokens": 512, "concurrency": 4, "inputTokens": 256, "outputTokens": 128},
        )
    )
    try:
        said = ask(fleet, timeout=360)
    finally:
        fleet.clear()
    plan, _, answer = said.partition("> What is the capital of France?")
    assert "VLLM: asked for" in plan
    assert len(answer.split()) >= 2
