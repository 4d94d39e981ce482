"""`plinth plan` from the command line: what it prints, and how it ends. The planner behind it is the real one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
import yaml
from click.testing import CliRunner, Result
from huggingface_hub import HfApi

from plinth.cli import main
from plinth.cluster.artifacts import read_artifact
from plinth.cluster.model_reader import MachineReadings
from plinth.cluster.state_dir import Instance, ProcessRef, StateDir
from plinth.domain.fleet import Artifact, ModelFormat
from plinth.domain.sources import parse_source
from plinth.engine.local_sources import SourcePlaces
from plinth.runtime.plan_server import PlanServer
from plinth.tests.controllers.test_what_if import live, make_what_ifs
from plinth.tests.domain.models.public_models import PUBLIC_MODELS
from plinth.tests.house.documents import ROOT

EXAMPLE = ROOT / "examples/plan"
OBJECTIVES = {
    "percentile": 99,
    "concurrency": 40,
    "contextTokens": 8192,
    "ttftMilliseconds": 1500,
    "tpotMilliseconds": 50,
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def plan(*arguments: object, code: int = 0) -> dict[str, Any]:
    """The JSON of a run that ends so."""
    done = run(*arguments, "-o", "json")
    assert done.exit_code == code, done.output
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def write_model(folder: Path, name: str = "chat", *, config: str = "Qwen/Qwen2.5-32B", **spec: Any) -> Path:
    """A model's YAML beside a folder that holds nothing but its config.json."""
    (folder / "configs" / name).mkdir(parents=True)
    (folder / "configs" / name / "config.json").write_text(json.dumps(PUBLIC_MODELS[config].config))
    source = f"file://{folder}/configs/{name}"
    return write(folder / f"{name}.yaml", "ModelDeployment", name, {"model": {"source": source}, **spec})


def write(file: Path, kind: str, name: str, spec: dict[str, Any]) -> Path:
    header = {"apiVersion": "plinth.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
    file.write_text(yaml.safe_dump({**header, "spec": spec}))
    return file


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has the public models' config.json, and no network behind it."""

    def read(text: str, revision: str | None, **_: object) -> Artifact:
        config = PUBLIC_MODELS[parse_source(text, revision).origin].config
        return Artifact(format=ModelFormat.SAFETENSORS, config=config, weights_bytes=0)

    monkeypatch.setattr("plinth.cluster.model_reader.read_artifact", read)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr(HfApi, "model_info", refuse)


def test_the_document_says_what_a_model_would_get_and_why(tmp_path: Path) -> None:
    model = write_model(tmp_path, objectives=OBJECTIVES)
    pool = write(
        tmp_path / "p.yaml", "GPUPool", "h200", {"accelerator": "H200", "costPerAcceleratorHour": "3.90"}
    )
    document = plan(model, pool, "--nodes", "1x2xH200")
    (found,) = document["models"]
    assert document["pending"] == []
    assert (found["name"], found["namespace"], found["pool"], found["engine"]) == (
        "chat",
        "default",
        "h200",
        "VLLM",
    )
    assert found["shape"] == {
        "tensorParallel": 2,
        "pipelineParallel": 1,
        "expertParallel": 1,
        "dataParallel": 1,
    }
    assert (found["replicas"], found["gpus"], found["costPerHour"]) == (1, 2, "7.8")
    assert set(found["memory"]) == {
        *("weightsBytesPerGpu", "adapterBytesPerGpu", "kvBytesPerGpu", "kvTokens", "overheadBytesPerGpu")
    }
    speeds = {"ttftP50Milliseconds", "ttftP99Milliseconds", "tpotMicroseconds", "tokensPerSecond"}
    assert set(found["predicted"]) == {*speeds, "costPerMillionTokens"}
    assert all(type(found["predicted"][name]) is int for name in speeds)
    assert all(type(value) is int for value in found["memory"].values())
    assert type(found["predicted"]["costPerMillionTokens"]) is str
    assert {"shape": "TP1", "reason": "its KV cache holds 31 requests of 8192 tokens, 40 asked"} in found[
        "rejected"
    ]
    assert any("TP2" in reason for reason in found["reasons"])


def test_yaml_says_the_same_as_json(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    shown = run(model, "--nodes", "1x2xH200", "-o", "yaml")
    assert yaml.safe_load(shown.stdout) == plan(model, "--nodes", "1x2xH200")


def test_the_table_shows_models_and_pools_and_the_wide_one_the_reasons(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    short = run(model, "--nodes", "1x8xH200").stdout.splitlines()
    assert short[0].split()[:4] == ["MODEL", "POOL", "SHAPE", "GPUS"]
    assert short[1].split()[:6] == ["default/chat", "h200", "1", "x", "TP1", "1"]
    assert short[1].split()[-1] == "fits"
    assert short[-1].split()[:6] == ["h200", "H200", "1", "1", "of", "8"]
    wide = run(model, "--nodes", "1x8xH200", "-o", "wide").stdout
    assert "1 replica: the load asks for no more than minReplicas" in wide


def test_the_wide_table_and_the_reasons_say_what_adapters_take(tmp_path: Path) -> None:
    """Of rank 16 for Qwen2.5-32B: (64 layers · 131,072 + the vocabulary's 2 · (152,064 + 5,120)) · 16 · 2 bytes."""
    named = [{"name": "law", "source": "hf://org/law"}]
    wide = run(write_model(tmp_path, adapters=named), "--nodes", "1x8xH200", "-o", "wide").stdout
    assert "ADAPTERS" in wide.splitlines()[0]
    assert wide.count("265.6 MiB") == 2


def test_what_has_no_room_ends_with_three_and_says_who_holds_it(tmp_path: Path) -> None:
    model = write_model(tmp_path, scaling={"minReplicas": 3, "maxReplicas": 3})
    document = plan(model, "--nodes", "1x2xH200", code=3)
    assert document["models"][0]["replicas"] == 3
    (pending,) = document["pending"]
    assert (pending["name"], pending["reason"]) == ("chat", "InsufficientCapacity")
    done = run(model, "--nodes", "1x2xH200")
    assert done.exit_code == 3
    assert done.stderr.startswith("default/chat stays pending: ")
    assert "InsufficientCapacity" in done.stdout


def test_what_fits_in_no_shape_ends_with_three_and_says_why(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    document = plan(model, "--nodes", "1x1xT4", code=3)
    assert document["models"] == []
    assert document["pending"][0]["reason"] == "ShapeImpossible"
    assert "leave no room for KV" in document["pending"][0]["message"]


def test_a_model_may_be_planned_for_another_pool_than_it_asks_for(tmp_path: Path) -> None:
    model = write_model(tmp_path, pool="h200", objectives={"contextTokens": 8192})
    nodes = ["--nodes", "1x8xH200", "--nodes", "1x8xA100-80GB"]
    assert plan(model, *nodes)["models"][0]["pool"] == "h200"
    moved = plan(model, *nodes, "--pool", "a100-80gb")["models"][0]
    assert (moved["pool"], moved["shape"]["tensorParallel"]) == ("a100-80gb", 2)


def test_a_folder_is_read_as_up_reads_it(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert plan(tmp_path, "--nodes", "1x1xH200")["models"][0]["name"] == "chat"


def test_the_same_model_in_two_files_is_bad_input(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    copy = shutil.copy(model, tmp_path / "copy.yaml")
    done = run(model, copy, "--nodes", "1x1xH200")
    assert done.exit_code == 2
    assert f"{model}:1: metadata.name: must be the only ModelDeployment default/chat" in done.stderr


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ({"scaling": {"maxReplicas": 0}}, [], "chat.yaml:9: spec.scaling.maxReplicas"),
        ({}, ["--nodes", "H200"], "'H200' must be [POOL=]NODESxACCELERATORSxKIND[:MEMORY]"),
        ({}, [], "there is no GPUPool; state what there is, as in --nodes 2x8xH200"),
        ({}, ["--nodes", "1x1xH200", "--pool", "b200"], "there is no GPUPool b200; there is h200"),
        ({}, ["/no/such/file.yaml"], "'/no/such/file.yaml' does not exist"),
    ],
)
def test_bad_input_ends_with_two_and_says_where(
    tmp_path: Path, spec: dict[str, Any], options: list[str], said: str
) -> None:
    done = run(write_model(tmp_path, **spec), *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_files_without_a_model_are_bad_input(tmp_path: Path) -> None:
    done = run(write(tmp_path / "p.yaml", "GPUPool", "h200", {"accelerator": "H200"}))
    assert (done.exit_code, done.stderr) == (2, "Error: there is no ModelDeployment to plan for\n")


def test_on_cpu_nodes_a_replica_takes_memory_and_the_price_is_the_nodes(tmp_path: Path) -> None:
    model = write_model(tmp_path, config="HuggingFaceTB/SmolLM2-135M")
    pool = write(
        tmp_path / "p.yaml", "GPUPool", "cpu", {"accelerator": "CPU", "costPerAcceleratorHour": "0.10"}
    )
    (found,) = plan(model, pool, "--nodes", "2x8xCPU:16Gi")["models"]
    assert (found["gpus"], found["costPerHour"], found["memory"]["overheadBytesPerGpu"]) == (0, "0.1", None)


@pytest.mark.usefixtures("no_hub")
def test_without_the_hub_it_is_said_how_to_plan_all_the_same(tmp_path: Path) -> None:
    spec = {"model": {"source": "hf://Qwen/Qwen2.5-32B"}}
    done = run(write(tmp_path / "m.yaml", "ModelDeployment", "chat", spec), "--nodes", "1x1xH200")
    assert done.exit_code == 3
    assert "the hub cannot be reached (no route) when asked for Qwen/Qwen2.5-32B" in done.stderr
    assert "name its folder as file:///FOLDER" in done.stderr


def test_a_config_alone_is_enough_to_plan_and_not_to_serve(tmp_path: Path) -> None:
    write_model(tmp_path)
    source = f"file://{tmp_path}/configs/chat"
    assert isinstance(_read(source, weights_needed=False), Artifact)
    assert not isinstance(_read(source, weights_needed=True), Artifact)


def _read(source: str, *, weights_needed: bool) -> object:
    return read_artifact(source, None, places=SourcePlaces(), weights_needed=weights_needed)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that some `plinth up` serves, on a machine with two H200, one of them free."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "served"
    folder.mkdir()
    state = StateDir.for_folder(folder)
    state.create()
    processes = (ProcessRef.of("up", os.getpid()),)
    state.write_instance(Instance(folder=str(folder), endpoint="", ray_address="", processes=processes))
    with state.acquire_lock(), in_background(serve_plans(state.plan_socket)):
        yield folder


async def serve_plans(socket: Path) -> AsyncIterator[None]:
    readings = MachineReadings(secrets_dir=socket.parent, weights_needed=False)
    server = PlanServer(make_what_ifs(live(), readings))
    await server.start_on_socket(str(socket))
    yield
    await server.close()


@contextmanager
def in_background(serving: AsyncIterator[None]) -> Iterator[None]:
    """A server in a thread with a loop of its own, as in another process."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def run(step: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(step, loop).result(10)

    run(anext(serving, None))
    try:
        yield
    finally:
        run(anext(serving, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_a_running_up_is_asked_what_it_would_make_of_a_file_beside_what_it_serves(
    tmp_path: Path, served: Path
) -> None:
    one = write_model(tmp_path, "one", objectives={"concurrency": 1, "contextTokens": 2048})
    document = plan(one, "--live")
    assert [(each["name"], each["action"]) for each in document["changes"]] == [("one", "Create")]
    assert plan(one, "--folder", served) == document
    two = write_model(tmp_path, "two", config="Qwen/Qwen2.5-32B", parallelism={"tensor": 2})
    document = plan(two, "--live", code=3)
    assert "held by default/chat (1 accelerator)" in document["pending"][0]["message"]


@pytest.mark.usefixtures("served")
def test_a_live_fleet_needs_no_nodes_stated_and_refuses_a_pool_that_it_has_not(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    done = run(model, "--live", "--nodes", "1x8xH200")
    assert (done.exit_code, "take one of them" in done.stderr) == (2, True)
    done = run(model, "--live", "--pool", "b200")
    assert (done.exit_code, done.stderr) == (2, "Error: there is no GPUPool b200; there is none\n")


def test_without_a_running_up_there_is_no_live_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = run(write_model(tmp_path), "--live")
    assert done.exit_code == 1
    assert "no `plinth up` is running" in done.stderr


@pytest.mark.usefixtures("hub")
def test_the_example_fits_on_what_its_pools_say() -> None:
    document = plan(EXAMPLE)
    found = {each["name"]: (each["pool"], each["replicas"], each["gpus"]) for each in document["models"]}
    assert document["pending"] == []
    assert found["bge-m3"] == ("l4", 1, 1)
    assert found["gemma4b"] == ("l4", 1, 1)
    assert found["qwen32b"] == ("h200", 2, 4)
    assert found["qwen235b"][0] == "h200"


@pytest.mark.usefixtures("hub")
def test_the_example_does_not_fit_on_a_few_accelerators() -> None:
    document = plan(EXAMPLE, "--nodes", "h200=1x4xH200", code=3)
    assert [each["reason"] for each in document["pending"]] == ["InsufficientCapacity"]
