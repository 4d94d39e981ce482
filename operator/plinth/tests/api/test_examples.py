"""Every example is valid, complete and does what its comments say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from plinth.api.v1alpha1 import ModelDeployment, parse_resource
from plinth.cluster.folder import load_folder
from plinth.domain.fleet import ModelKey
from plinth.domain.naming import resolve_names
from plinth.domain.relations import Relations, resolve_relations
from plinth.domain.traffic import TrafficShare
from plinth.tests.api.apiserver import judge
from plinth.tests.domain.builders import make_model

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
    for resource in (*contents.pools, *contents.policies, *contents.models):
        assert (
            judge(resource.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True))
            == []
        )


def test_the_promised_examples_are_there() -> None:
    assert [path.name for path in FOLDERS] == [
        "autoscaling",
        "canary",
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


def test_the_canary_example_shares_traffic_and_all_of_it_is_in_effect() -> None:
    contents = load_folder(EXAMPLES / "canary")
    models = [
        make_model(each.metadata.name, **each.spec.model_dump(exclude_none=True)) for each in contents.models
    ]
    found = resolve_relations(models, resolve_names(models))
    share = TrafficShare(model="default/smollm2-next", percent=10, mirror_percent=0)
    assert found == {ModelKey("default", "smollm2"): Relations(shares=(share,))}


def test_the_resources_in_the_routing_document_are_valid() -> None:
    text = (EXAMPLES.parent / "docs/concepts/routing.md").read_text(encoding="utf-8")
    documents = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(documents) == 2
    for document in documents:
        assert isinstance(parse_resource(document), ModelDeployment)
        assert judge(document) == []


def test_the_autoscaling_example_goes_from_zero_to_three() -> None:
    scaling = only_model("autoscaling").spec.scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 3)
