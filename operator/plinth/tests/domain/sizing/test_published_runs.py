"""What others have run with vLLM the planner takes, and what they could not run it refuses."""

import pytest

from plinth.domain.sizing.choice import ShapeChoice
from plinth.tests.domain.sizing.published_runs import LOADS, RUNS, SOURCES, Loaded, Run


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.setting}, {run.context} tokens")
def test_the_planner_takes_the_shapes_that_run_and_no_others(run: Run) -> None:
    found = run.judge()
    takes = isinstance(found, ShapeChoice)
    if run.setting.parts:
        assert takes is not run.runs, f"agrees by now: take out {run.setting.parts!r}"
    else:
        assert takes is run.runs, found
    if isinstance(found, ShapeChoice):
        assert found.shape == run.setting.shape


@pytest.mark.parametrize("loaded", LOADS, ids=lambda loaded: str(loaded.setting))
def test_weights_take_what_vllm_says_that_they_took(loaded: Loaded) -> None:
    near = loaded.plan() == pytest.approx(loaded.weights_bytes, rel=0.03)
    if loaded.setting.parts:
        assert not near, f"agrees by now: take out {loaded.setting.parts!r}"
    else:
        assert near, loaded.plan()


def test_every_source_is_an_address_and_is_used() -> None:
    used = {run.setting.source for run in RUNS} | {loaded.setting.source for loaded in LOADS}
    assert used == set(SOURCES.values())
    assert all(source.startswith("https://") for source in used)


def test_some_forty_facts_of_two_dozen_models_are_held_against_the_planner() -> None:
    assert len(RUNS) >= 40
    assert len({run.setting.model for run in RUNS}) >= 20
    assert len({run.setting.kind for run in RUNS}) >= 10
    assert any(not run.runs for run in RUNS)
