"""Every example is valid, complete and does what its comments say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.folder import load_folder
from plinth.tests.api.apiserver import judge

EXAMPLES = Path(__file__).parents[4] / "examples"
FOR_OTHER_TOOLS = {"gitops"}
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name not in FOR_OTHER_TOOLS)


def only_model(folder: str) -> ModelDeployment:
    (model,) = load_folder(EXAMPLES / folder).models
    return model


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.name))
def test_the_example_is_valid_here_and_in_a_cluster(folder: Path) -> None:
    contents = load_folder(folder)
    assert contents.errors == ()
    assert contents.warnings == ()
    assert contents.models
    for resource in (*contents.pools, *contents.models):
        assert (
            judge(resource.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True))
            == []
        )


def test_the_promised_examples_are_there() -> None:
    assert [path.name for path in FOLDERS] == [
        "autoscaling",
        "cluster",
        "embeddings",
        "gpu-large",
        "plan",
        "quickstart",
    ]


def test_pools_that_examples_name_are_in_the_example() -> None:
    for folder in FOLDERS:
        contents = load_folder(folder)
        pools = {pool.metadata.name for pool in contents.pools}
        assert {model.spec.pool for model in contents.models} <= pools | {None}


def test_the_quick_start_needs_no_download() -> None:
    source = only_model("quickstart").spec.model.source
    module, _, file = source.removeprefix("package://").partition("/")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert (Path(found.origin).parent / file).is_file()


def test_the_autoscaling_example_goes_from_zero_to_three() -> None:
    scaling = only_model("autoscaling").spec.scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 3)
