"""`plinth status` as tables and documents, from a status database as `plinth up` leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from rich.console import Console

from plinth.api.v1alpha1 import GPUPoolStatus, ModelDeploymentStatus, ResourceKey
from plinth.api.v1alpha1.figures import Measured, Predicted
from plinth.cluster.folder import FolderStore
from plinth.cluster.status_db import StatusDB
from plinth.runtime.status_command import read_all, render

FOLDER = """
apiVersion: plinth.dev/v1alpha1
kind: GPUPool
metadata: {name: h200}
spec: {costPerAcceleratorHour: "3.90"}
---
apiVersion: plinth.dev/v1alpha1
kind: ModelDeployment
metadata: {name: chat, namespace: team-a}
spec:
  model: {source: "file:///models/chat.gguf"}
"""


def make_database(place: Path) -> StatusDB:
    folder = place / "models"
    folder.mkdir()
    (folder / "all.yaml").write_text(FOLDER)
    database = StatusDB.open(place / "status.db")
    store = FolderStore(folder, database)
    store.read(1.0)
    store.write(
        {
            ResourceKey("GPUPool", "", "h200"): GPUPoolStatus(
                nodes=2, accelerator="H200", accelerators=16, accelerators_used=4, reason="CapacityReady"
            ),
            ResourceKey("ModelDeployment", "team-a", "chat"): ModelDeploymentStatus(
                ready_replicas=1,
                desired_replicas=2,
                shape="2xTP2",
                accelerators=4,
                reason="Scaling",
                plan=["because"],
                predicted=Predicted(weights_bytes=30 << 30, kv_bytes=95 << 30, kv_tokens=778_000),
                measured=Measured(
                    weights_bytes=29 << 30, kv_tokens=775_216, tokens_per_second=2400, concurrency=40
                ),
            ),
        }
    )
    return database


def test_the_table_answers_for_models_and_pools(tmp_path: Path) -> None:
    with make_database(tmp_path) as database:
        text = render(Console(width=200), read_all(database), None)
    model = next(line for line in text.splitlines() if "team-a/chat" in line)
    assert model.split()[:4] == ["team-a/chat", "1/2", "2xTP2", "4"]
    pool = next(line for line in text.splitlines() if line.startswith("h200"))
    assert "4 of 16" in pool
    assert "because" not in text


def test_wide_adds_the_reasons_and_what_was_predicted_beside_what_was_measured(tmp_path: Path) -> None:
    with make_database(tmp_path) as database:
        shown = render(Console(width=200), read_all(database), "wide").splitlines()
    assert shown[-3:] == [
        "  chat: because",
        "  chat: predicted: weights 30.0 GiB · KV 95.0 GiB = 778k tokens",
        "  chat: measured: weights 29.0 GiB = 775k tokens · 2400 tokens/s at 40 requests",
    ]


def test_json_and_yaml_are_the_same_list_of_whole_resources(tmp_path: Path) -> None:
    with make_database(tmp_path) as database:
        resources = read_all(database)
    document = json.loads(render(Console(), resources, "json"))
    assert document == yaml.safe_load(render(Console(), resources, "yaml"))
    assert document["kind"] == "List"
    by_kind = {each["kind"]: each for each in document["items"]}
    assert by_kind["ModelDeployment"]["status"]["shape"] == "2xTP2"
    assert by_kind["GPUPool"]["spec"]["costPerAcceleratorHour"] == "3.90"
