"""The official OpenAI client against `plinth up`, unchanged; and the commands beside it."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
import yaml
from fleet import SMOLLM2, Fleet, listening_beyond_loopback, make_model

pytestmark = pytest.mark.ray


@pytest.fixture
def client(shared_fleet: Fleet) -> openai.OpenAI:
    return openai.OpenAI(base_url=shared_fleet.url, api_key="any", max_retries=0, timeout=60)


def test_models_are_listed_under_their_names(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("default/smollm2").id


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "Say hello."}], max_tokens=16
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 16


def test_the_answer_names_the_model_that_was_asked_for_and_no_path(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt="One, two,", max_tokens=4)
    assert "/" not in answer.model


def test_a_streamed_chat_ends_with_its_finish_reason_and_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default/smollm2",
        messages=[{"role": "user", "content": "Count to five."}],
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    events = list(stream)
    reasons = [choice.finish_reason for event in events for choice in event.choices if choice.finish_reason]
    assert reasons in (["stop"], ["length"])
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens > 0


def test_an_unknown_model_is_not_found_and_the_error_names_what_exists(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-9", prompt="x")
    assert caught.value.code == "model_not_found"
    assert "smollm2" in caught.value.message


def test_embeddings_of_a_chat_model_are_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="smollm2", input="x")


def test_a_client_that_waits_too_briefly_gets_its_own_timeout_and_the_next_request_works(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).completions.create(
            model="smollm2", prompt="On and on", max_tokens=400, extra_body={"ignore_eos": True}
        )
    assert client.completions.create(model="smollm2", prompt="One,", max_tokens=2).choices[0].text


def test_a_model_added_to_the_folder_serves_embeddings_and_goes_with_its_file(
    shared_fleet: Fleet, client: openai.OpenAI
) -> None:
    embedder = make_model(
        "embedder",
        model={"source": SMOLLM2, "task": "Embed"},
        engine={"type": "LlamaCpp", "args": {"pooling-type": "mean"}},  # a chat model says nothing of pooling
        objectives={"contextTokens": 512, "concurrency": 2},
    )
    shared_fleet.write(embedder, file="embedder.yaml")
    shared_fleet.wait_ready(name="embedder")
    answer = client.embeddings.create(model="embedder", input=["a plinth", "a base for a statue"])
    assert [each.index for each in answer.data] == [0, 1]
    assert {len(each.embedding) for each in answer.data} == {576}
    assert answer.data[0].embedding != answer.data[1].embedding
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="embedder", prompt="x")
    (shared_fleet.folder / "embedder.yaml").unlink()
    deadline = time.monotonic() + 30
    while len(client.models.list().data) > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [model.id for model in client.models.list()] == ["smollm2"]
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="embedder", input="x")


def test_nothing_of_ray_gateway_or_engine_listens_beyond_loopback(shared_fleet: Fleet) -> None:
    assert len(shared_fleet.processes()) > 5
    assert listening_beyond_loopback(shared_fleet.processes()) == []


def test_status_is_a_table_json_and_yaml(shared_fleet: Fleet) -> None:
    table = shared_fleet.run("status").stdout
    assert "default/smollm2" in table
    assert "1/1" in table
    document = json.loads(shared_fleet.run("status", "-o", "json").stdout)
    again = yaml.safe_load(shared_fleet.run("status", "-o", "yaml").stdout)
    assert document == again
    model: dict[str, Any] = next(each for each in document["items"] if each["kind"] == "ModelDeployment")
    ready = next(each for each in model["status"]["conditions"] if each["type"] == "Ready")
    assert ready["status"] == "True"
    assert ready["observedGeneration"] == model["metadata"]["generation"]


def test_wide_status_says_why(shared_fleet: Fleet) -> None:
    wide = shared_fleet.run("status", "-o", "wide").stdout
    assert "LlamaCpp" in wide
    assert "TP1" in wide


def test_chat_streams_an_answer_to_the_terminal(shared_fleet: Fleet) -> None:
    done = shared_fleet.run("chat", "smollm2", "Say", "hello.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_logs_show_what_the_engine_wrote(shared_fleet: Fleet) -> None:
    done = shared_fleet.run("logs", "smollm2")
    assert done.returncode == 0, done.stderr
    assert "==> default.smollm2." in done.stdout


def test_the_commands_say_so_when_nothing_runs(fleet: Fleet) -> None:
    done = fleet.run("status")
    assert done.returncode == 1
    assert "no `plinth up` is running" in done.stderr
