"""Which requests ask the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.access import CacheUse
from plinth.gateway.cache.key import answer_key, wishes

CHAT: dict[str, Any] = {
    "model": "tiny",
    "temperature": 0,
    "messages": [{"role": "user", "content": "hello"}],
}


def key(
    body: dict[str, Any] | bytes | None = None,
    *,
    use: CacheUse = "Deterministic",
    tenant: str = "team-a",
    model: str = "team-a/tiny",
    revision: str = "1",
    path: str = "/v1/chat/completions",
    generates: bool = True,
    **changes: Any,
) -> bytes | None:
    if not isinstance(body, bytes):
        body = json.dumps((CHAT if body is None else body) | changes).encode()
    return answer_key(
        body, use=use, tenant=tenant, model=model, revision=revision, path=path, generates=generates
    )


def test_the_same_request_has_the_same_key_of_32_bytes() -> None:
    assert key() == key()
    assert len(key() or b"") == 32


@given(st.permutations(list((CHAT | {"seed": 3, "max_tokens": 5}).items())), st.sampled_from([None, 0, 2]))
def test_the_order_of_fields_and_the_space_between_them_say_nothing(
    items: list[tuple[str, Any]], indent: int | None
) -> None:
    body = json.dumps(dict(items), indent=indent).encode()
    assert key(body) == key(seed=3, max_tokens=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"n": 1},
        {"stop": None},
        {"stop": []},
        {"logprobs": False},
        {"stream": False},
        {"stream_options": {"include_usage": True}},  # says nothing where nothing streams
        {"user": "ann"},
        {"metadata": {"run": "7"}},
        {"messages": [{"content": "hello", "role": "user"}]},
    ],
    ids=str,
)
def test_what_no_engine_can_tell_apart_has_one_key(changes: dict[str, Any]) -> None:
    assert key(**changes) == key()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"n": 2},
        {"n": True},
        {"logprobs": 0},  # in a completion this asks for probabilities, though 0 equals False
        {"top_p": 1},  # absent, it is what the model's generation_config.json says
        {"presence_penalty": 0},  # absent, it is what the engine's arguments say
        {"max_tokens": 9},
        {"stop": ["\n"]},
        {"stream": True},
        {"model": "tiny-lora"},
        {"cache_salt": "x"},
        {"messages": [{"role": "user", "content": "hello "}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
    ],
    ids=str,
)
def test_what_may_change_the_answer_changes_the_key(changes: dict[str, Any]) -> None:
    assert key(**changes) is not None
    assert key(**changes) != key()


def test_the_order_inside_schemas_matters_since_engines_generate_in_that_order() -> None:
    def tool(*names: str) -> list[Any]:
        properties = {name: {"type": "string"} for name in names}
        return [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]

    assert key(tools=tool("a", "b")) != key(tools=tool("b", "a"))


def test_a_number_deep_in_a_schema_is_kept_as_it_was_written() -> None:
    one, same = ({"type": "json_schema", "json_schema": {"minimum": value}} for value in (1, 1.0))
    assert key(response_format=one) != key(response_format=same)


def test_whether_a_stream_tells_its_usage_changes_its_key() -> None:
    assert key(stream=True) == key(stream=True, stream_options=None)
    assert key(stream=True) != key(stream=True, stream_options={"include_usage": True})


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_two_tenants_models_or_revisions_share_a_key(a: str, b: str, c: str, d: str) -> None:
    same = (a, b) == (c, d)
    assert (key(tenant=a, model=b) == key(tenant=c, model=d)) is same
    assert (key(model=a, revision=b) == key(model=c, revision=d)) is same
    assert (key(tenant=a, revision=b) == key(tenant=c, revision=d)) is same


def test_numbers_beyond_any_word_are_told_apart() -> None:
    assert key(seed=10**30) != key(seed=10**30 + 1)


def test_paths_do_not_share_answers() -> None:
    assert key(path="/v1/completions") != key()


def test_a_policy_that_says_off_repeats_nothing() -> None:
    assert key(use="Off") is None
    assert key(use="Off", generates=False) is None


@pytest.mark.parametrize("temperature", [None, 0.7, 1e-9, False, "0"])
def test_only_an_explicit_zero_is_greedy_because_engines_differ_in_their_default(temperature: object) -> None:
    assert key(temperature=temperature) is None
    assert key(temperature=temperature, use="All") is not None


def test_embeddings_have_no_temperature() -> None:
    body = {"model": "small", "input": ["a", "b"]}
    assert key(body, path="/v1/embeddings", generates=False) is not None
    assert key(body, path="/v1/embeddings", generates=False) != key(
        body | {"input": ["b", "a"]}, path="/v1/embeddings", generates=False
    )


def picture(url: object) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]


def test_what_lies_behind_an_address_may_change_so_it_is_asked_anew() -> None:
    assert key(messages=picture({"url": "https://pictures.example/cat.png"})) is None
    assert key(messages=picture("file:///cat.png")) is None
    assert key(messages=picture(None)) is None
    assert key(messages=picture({"url": "data:image/png;base64,AA=="})) is not None


def test_an_address_cannot_hide_behind_escapes() -> None:
    body = json.dumps(CHAT | {"messages": picture({"url": "https://pictures.example/cat.png"})})
    assert key(body.replace("image_url", "image\\u005furl").encode()) is None


def test_text_that_speaks_of_addresses_is_text() -> None:
    assert key(messages=[{"role": "user", "content": '{"image_url":"https://x.example"}'}]) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"temperature": 0, "seed": 1e999}',
        b'{"temperature": 0, "a": "\\ud800"}',
        b'{"temperature": 0, "a": "\xff"}',
        b'{"temperature": 0, "a": ' + b"[" * 100_000,
    ],
    ids=lambda body: body[:30],
)
def test_a_body_that_cannot_be_read_is_left_to_the_engine(body: bytes) -> None:
    assert key(body) is None


@given(st.binary(max_size=60))
def test_no_body_breaks_it(body: bytes) -> None:
    assert key(body, use="All") is None or body.lstrip().startswith(b"{")


def test_a_client_may_ask_for_a_fresh_answer_or_for_none_to_be_kept() -> None:
    assert wishes([(b"accept", b"*/*")]) == (True, True)
    assert wishes([(b"cache-control", b"no-cache")]) == (False, True)
    assert wishes([(b"cache-control", b"Max-Age=0")]) == (False, True)
    assert wishes([(b"cache-control", b"private, no-store")]) == (False, False)
    assert wishes([(b"cache-control", b"no-cache"), (b"cache-control", b"no-store")]) == (False, False)
