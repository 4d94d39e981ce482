"""Score, tokenize and detokenize on engines that write them differently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.chat import TranslationError
from plinth.gateway.surface.native import LLAMA_CPP, NativeExchange, translate_native


def exchange(path: str, **fields: Any) -> NativeExchange:
    made = translate_native(path, json.dumps(fields).encode(), model="m", engine=LLAMA_CPP)
    assert isinstance(made, NativeExchange), made
    return made


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/score"])
def test_vllm_gets_these_as_they_came(path: str) -> None:
    assert translate_native(path, b"{}", model="m", engine="VLLM") is None


def test_a_path_that_engines_share_goes_on_as_it_came() -> None:
    assert translate_native("/v1/rerank", b"{}", model="m", engine=LLAMA_CPP) is None


def test_tokenize_for_llama_cpp() -> None:
    made = exchange("/tokenize", model="alias", prompt="hello", return_token_strs=True)
    assert json.loads(made.body) == {
        "model": "m",
        "content": "hello",
        "add_special": True,
        "parse_special": True,
        "with_pieces": True,
    }
    pieces = b'{"tokens":[{"id":1,"piece":"he"},{"id":2,"piece":[195]}]}'
    assert json.loads(made.answer(pieces)) == {"count": 2, "tokens": [1, 2], "token_strs": ["he", "\ufffd"]}
    assert json.loads(made.answer(b'{"tokens":[1,2]}')) == {"count": 2, "tokens": [1, 2]}


def test_detokenize_for_llama_cpp() -> None:
    made = exchange("/detokenize", tokens=[1, 2])
    assert json.loads(made.body) == {"model": "m", "tokens": [1, 2]}
    assert json.loads(made.answer(b'{"content":"hi"}')) == {"prompt": "hi"}


@pytest.mark.parametrize(
    ("one", "many"), [("text_1", "text_2"), ("queries", "documents"), ("queries", "items")]
)
def test_a_score_for_llama_cpp_is_a_rerank_in_the_order_of_the_texts(one: str, many: str) -> None:
    made = exchange("/v1/score", **{one: ["q"], many: ["a", "b"]})
    assert made.path == b"/v1/rerank"
    assert json.loads(made.body) == {"model": "m", "query": "q", "documents": ["a", "b"]}
    ranked = {
        "model": "m",
        "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": -1}],
    }
    scores = json.loads(made.answer(json.dumps(ranked).encode()))["data"]
    assert scores == [
        {"index": 0, "object": "score", "score": -1},
        {"index": 1, "object": "score", "score": 0.9},
    ]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/tokenize", {"messages": []}),
        ("/tokenize", {"prompt": 1}),
        ("/tokenize", {"prompt": "a", "add_special_tokens": None}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [2**31]}),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c", "d"]}),
        ("/v1/score", {"text_1": "a"}),
    ],
)
def test_what_the_engine_cannot_do_is_refused(path: str, fields: Any) -> None:
    made = translate_native(path, json.dumps(fields).encode(), model="m", engine=LLAMA_CPP)
    assert isinstance(made, Refusal)
    assert made.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"results":[{}]}',
        b'{"tokens":[{}]}',
        b'{"tokens":[{"id":1,"piece":[256]}]}',
    ],
)
def test_an_answer_of_another_shape_is_an_error(body: bytes) -> None:
    for made in (exchange("/tokenize", prompt="x"), exchange("/v1/score", text_1="a", text_2="b")):
        if made.path == b"/tokenize" and body == b'{"results":[{}]}':
            continue
        with pytest.raises(TranslationError):
            made.answer(body)
