from __future__ import annotations

import pytest

from plinth.domain.engine_args import REACHING, find_reaching, refuse_reaching
from plinth.domain.fleet import Engine


def refusal(args: dict[str, str], *, engine: Engine = Engine.VLLM, allowed: bool = False) -> str | None:
    return refuse_reaching(engine, args, pool="h200", allowed=allowed)


def test_code_of_a_model_needs_a_pool_that_trusts_it() -> None:
    assert refusal({"trust-remote-code": "true"}) == (
        "spec.engine.args.trust-remote-code: it runs code that comes with a model or is named by whoever deploys it, "
        "and GPUPool h200 says trustRemoteCode: Forbidden; leave it out, or use a pool with a namespace of its own "
        "and trustRemoteCode: Allowed"
    )
    assert refusal({"trust-remote-code": "true"}, allowed=True) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chat-template", "opens files beside the model"),
        ("worker-cls", "runs code"),
        ("kv-events-config", "connects to, or listens on"),
    ],
)
def test_so_does_whatever_reaches_further_than_the_model(name: str, words: str) -> None:
    assert words in str(refusal({name: "x"}))
    assert refusal({name: "x"}, allowed=True) is None


@pytest.mark.parametrize("args", [{}, {"enforce-eager": "true", "max-num-seqs": "8", "hf-overrides": "{}"}])
def test_what_only_tunes_the_engine_is_for_everybody(args: dict[str, str]) -> None:
    assert refusal(args) is None


@pytest.mark.parametrize("text", ["false", "False ", "0", "off"])
def test_a_switch_that_is_off_reaches_nowhere(text: str) -> None:
    assert refusal({"trust-remote-code": text}) is None
    assert find_reaching(Engine.VLLM, {"tokenizer": text}) is not None, "a folder may well be named so"


def test_each_engine_has_its_own_arguments() -> None:
    assert refusal({"tokenizer": "x"}, engine=Engine.LLAMA_CPP) is None
    assert "opens files" in str(refusal({"prompt-file": "/etc/passwd"}, engine=Engine.LLAMA_CPP))
    assert REACHING.keys() == set(Engine)
