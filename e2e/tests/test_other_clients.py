"""Clients that others made, unchanged, against a gateway with real engines behind it; streams too.

At temperature 0 a stream must say what a whole answer says, whoever reads it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_gateway import ROOT, Served, served_gateway

pytestmark = pytest.mark.process
CLIENTS = ROOT / ".venv-clients"
SCRIPTS = ROOT / "e2e" / "clients"
MODELS = ["tiny", "vectors"]
DIMENSIONS = [576, 576]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_gateway(tmp_path_factory.mktemp("served")) as gateway:
        yield gateway


def run_client(served: Served, script: str) -> Any:
    """What one of the programs in e2e/clients printed."""
    assert CLIENTS.exists(), "the clients' environment is missing: bash e2e/clients/setup.sh .venv-clients"
    runs_in = CLIENTS / "bin" / ("python" if script.endswith(".py") else "node")
    done = subprocess.run(
        [runs_in, SCRIPTS / script],
        env=served.environment() | {"NODE_PATH": str(CLIENTS / "js" / "node_modules")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def assert_one_answer(texts: list[str]) -> None:
    assert texts[0]
    assert set(texts) == {texts[0]}


def test_openais_python_package(served: Served) -> None:
    got = run_client(served, "openai_calls.py")
    for answers in ("chat", "response", "completion"):
        assert_one_answer(got[answers])
    assert got["chat_tokens"] == [8, 8]
    assert got["why"] == ["max_output_tokens", "max_output_tokens"]
    assert got["dimensions"] == DIMENSIONS
    assert got["models"] == MODELS
    assert (got["refused"]["status"], got["refused"]["code"]) == (401, "invalid_api_key")
    assert got["refused"]["request"]


def test_openais_javascript_package(served: Served) -> None:
    got = run_client(served, "openai_calls.cjs")
    assert_one_answer(got["chat"])
    assert_one_answer(got["response"])
    assert got["tokens"] == [8, 8]
    assert got["dimensions"] == DIMENSIONS
    assert got["models"] == MODELS
    assert (got["refused"]["status"], got["refused"]["code"]) == (404, "model_not_found")


def test_anthropics_python_package(served: Served) -> None:
    got = run_client(served, "anthropic_calls.py")
    assert_one_answer(got["message"])
    whole, streamed = got["tokens"]
    assert whole == streamed
    assert whole[1:] == [8, "max_tokens"]
    assert got["counted"] > 0
    assert got["refused"]["status"] == 404
    assert got["refused"]["body"]["error"]["type"] == "not_found_error"


def test_langchain(served: Served) -> None:
    got = run_client(served, "langchain_calls.py")
    assert_one_answer(got["whole"] + got["streamed"] + got["batch"])
    assert got["tokens"] == [8, 8]
    assert got["dimensions"] == DIMENSIONS


def test_litellm_as_a_client(served: Served) -> None:
    got = run_client(served, "litellm_calls.py")
    assert_one_answer(got["openai"] + got["anthropic"])
    assert got["dimensions"] == DIMENSIONS
    assert "tiny" in got["refused"], "the refusal names what there is"


def test_a_workflow_tools_bare_call(served: Served) -> None:
    got = run_client(served, "axios_calls.cjs")
    assert_one_answer([got["whole"], got["streamed"]["text"]])
    assert got["streamed"]["last"] == "[DONE]"
    assert got["type"].startswith("application/json")
    assert got["models"] == MODELS
    assert got["refused"] == [404, "model_not_found"]


HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("name", ["tiny", "team/tiny", "tiny@q4"])
def test_curl(served: Served, tmp_path: Path, name: str) -> None:
    whole = json.loads(curl(served, tmp_path, "/v1/chat/completions", HELLO | {"model": name}))
    streamed = curl(served, tmp_path, "/v1/chat/completions", HELLO | {"model": name, "stream": True})
    *events, last = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    assert last == "[DONE]"
    pieces = [
        choice["delta"].get("content") or "" for each in events for choice in json.loads(each)["choices"]
    ]
    assert_one_answer([whole["choices"][0]["message"]["content"], "".join(pieces)])


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_turns_text_into_tokens_and_back(served: Served, tmp_path: Path) -> None:
    told = json.loads(curl(served, tmp_path, "/tokenize", {"model": "tiny", "prompt": "hello world"}))
    assert told["count"] == len(told["tokens"]) == 2
    back = curl(served, tmp_path, "/detokenize", {"model": "tiny", "tokens": told["tokens"]})
    assert json.loads(back) == {"prompt": "hello world"}


def curl(served: Served, folder: Path, path: str, fields: dict[str, Any]) -> str:
    body = folder / "body.json"
    body.write_text(json.dumps(fields))
    return subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--no-buffer", "--fail-with-body", f"{served.url}{path}"),
            *(
                "--header",
                f"Authorization: Bearer {served.key}",
                "--header",
                "Content-Type: application/json",
            ),
            *("--data", f"@{body}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
