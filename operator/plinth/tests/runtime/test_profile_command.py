from __future__ import annotations

from typing import Any

import click
import pytest

from plinth.api.v1alpha1 import ModelDeployment
from plinth.runtime.profile_command import default_levels, find_model, make_document, render, show_profile
from plinth.runtime.profiling import Level


def make_level(**changes: Any) -> Level:
    values: dict[str, Any] = {
        "users": 40,
        "requests": 90,
        "failed": 0,
        "ttft_p50_milliseconds": 706,
        "ttft_p99_milliseconds": 1094,
        "tpot_microseconds": 15_300,
        "tokens_per_second": 2397,
    }
    return Level(**(values | changes))


def make_model(name: str = "chat", *, task: str = "Generate", **status: Any) -> ModelDeployment:
    ready = {"readyReplicas": 1, "shape": "1xTP2", "engine": "VLLM"}
    return ModelDeployment.model_validate(
        {
            "metadata": {"name": name, "namespace": "team-a"},
            "spec": {
                "model": {"source": "hf://org/chat", "task": task},
                "objectives": {"concurrency": 40, "contextTokens": 8192},
            },
            "status": ready | status,
        }
    )


PREDICTED = {
    "weightsBytes": 30 << 30,
    "kvTokens": 778_000,
    "tokensPerSecond": 2500,
    "concurrency": 40,
    "ttftP50Milliseconds": 650,
    "ttftP99Milliseconds": 1000,
    "tpotMicroseconds": 15_000,
}


def test_by_default_one_user_a_quarter_and_the_stated_concurrency_are_measured() -> None:
    assert default_levels(40) == [1, 10, 40]
    assert default_levels(1) == [1]


def test_a_model_is_found_by_its_name_alone_or_with_its_namespace() -> None:
    models = [make_model("chat"), make_model("other")]
    assert find_model(models, "chat") is models[0]
    assert find_model(models, "team-a/other") is models[1]
    with pytest.raises(click.ClickException, match="there is no model none"):
        find_model(models, "none")
    twin = models[0].model_copy(update={"metadata": models[0].metadata.model_copy(update={"namespace": "b"})})
    with pytest.raises(click.ClickException, match="name one of team-a/chat, b/chat"):
        find_model([models[0], twin], "chat")


def test_the_document_tells_speed_of_one_replica_beside_what_was_predicted() -> None:
    model = make_model(readyReplicas=2, predicted=PREDICTED, measured={"kvTokens": 775_216})
    document = make_document(model, [make_level(users=80, tokens_per_second=4794)])
    assert document["workload"] == {"inputTokens": 512, "outputTokens": 256}
    assert document["predicted"]["kvTokens"] == 778_000
    assert document["measured"] == {"kvTokens": 775_216}
    (level,) = document["levels"]
    assert (level["concurrency"], level["tokensPerSecond"], level["ttftP99Milliseconds"]) == (40, 2397, 1094)


def test_the_table_shows_predicted_before_measured_and_what_is_not_known() -> None:
    model = make_model(predicted=PREDICTED, measured={"weightsBytes": 29 << 30})
    rows = [line.split() for line in render(model, make_document(model, [make_level()])).splitlines()]
    assert ["weights", "30.0", "GiB", "29.0", "GiB"] in rows
    assert ["778k", "tokens", "?"] in rows
    predicted = ["40", "predicted", "650", "ms", "1000", "ms", "15.0", "ms", "2500"]
    measured = ["40", "706", "ms", "1094", "ms", "15.3", "ms", "2397", "90", "0"]
    assert rows.index(predicted) < rows.index(measured)


def test_without_a_prediction_only_what_was_measured_is_shown() -> None:
    model = make_model()
    assert "predicted" not in render(model, make_document(model, [make_level()]))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (make_model(task="Embed"), "team-a/chat is there to embed; only generation is measured"),
        (make_model(readyReplicas=0), "no replica of team-a/chat answers; its status says why"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_asked(model: ModelDeployment, said: str) -> None:
    with pytest.raises(click.ClickException, match=said):
        show_profile("http://127.0.0.1:1/v1", model, concurrency=(), seconds=5, output=None)
