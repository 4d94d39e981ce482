"""Streams of a real vLLM with LoRA adapters, cut and carried on; the contract of the engine that names its tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

import pytest

from plinth.gateway.resume.asked import prepare
from plinth.gateway.resume.events import EventEditor
from plinth.tests.engine.lora_files import write_adapter
from plinth.tests.engine.serving import SECRET
from plinth.tests.engine.test_vllm import START_SECONDS, replica
from plinth.tests.gateway.cut_streams import CHAT, COMPLETIONS, RealEngine, events_of, request_of
from plinth.tests.gateway.token_engine import read_stream

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    folder = tmp_path_factory.mktemp("resume")
    adapters = {
        "law": f"file://{write_adapter(folder / 'law', rank=8, seed=1)}",
        "med": f"file://{write_adapter(folder / 'med', rank=24, seed=2)}",
    }
    with replica(folder, {**WIDE, "adapters": adapters, "adapter_rank": 32}) as (_, base):
        engine = RealEngine(base, SECRET)
        deadline = time.monotonic() + START_SECONDS
        while json.loads(engine.fetch("/plinth/state"))["phase"] != "Ready":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield engine


WIDE: dict[str, object] = {"args": {"enforce-eager": "true", "dtype": "float32"}}
"""With 16 bits a token read with a prompt and the same token just made differ enough to turn near ties (seen: "built in
1882" and "1850"): the engine does not repeat itself, whoever asks."""
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": (CHAT, "Tell a story about a lighthouse.", {}),
    "completions": (COMPLETIONS, "Once upon a time", {"stream_options": {"include_usage": True}}),
    "characters of several tokens": (CHAT, "Write many different emoji in a row", {}),
    "an adapter": (CHAT, "Name three colours.", {"model": "chat:law", "max_tokens": 16}),
    "a stop string": (COMPLETIONS, "Count: 1 2 3 4", {"stop": ["9 10 11", "7 x"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cut_stream_reads_as_an_undisturbed_one(vllm: RealEngine, case: str) -> None:
    path, words, fields = CASES[case]
    request = request_of(path, words, **fields)
    whole = read_stream(vllm.fetch(path, request))
    for breaks in ([2], [7], [13], [4, 3, 5]):
        seen = vllm.carry_on(path, request, breaks)
        assert (seen.texts, seen.finish, seen.done) == (whole.texts, whole.finish, True), breaks
        assert seen.usage == whole.usage
        assert len(seen.ids) == 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_the_client_gets_the_very_events_that_it_would_get_unasked(vllm: RealEngine, path: str) -> None:
    request = request_of(path, "Say hello", max_tokens=6)
    prepared = prepare(request, seed=1)
    assert prepared is not None
    edits = EventEditor(hides_ids=True, hides_usage=True)
    edited = events_of(edits.feed(vllm.fetch(path, prepared.body)))
    unasked = events_of(vllm.fetch(path, request))
    assert [untimed(event) for event in edited] == [untimed(event) for event in unasked]
    assert edits.ledger.names_tokens()


def test_an_adapter_answers_by_its_own_name_and_the_model_by_its_own(vllm: RealEngine) -> None:
    def ask(name: str) -> bytes:
        return vllm.fetch(CHAT, request_of(CHAT, "Name three colours.", model=name, stream=False))

    answers = {name: json.loads(ask(name)) for name in ("chat", "chat:law", "chat:med", "team/chat")}
    # The engine answers by the first of the model's names, whichever was asked.
    assert [answer["model"] for answer in answers.values()] == ["chat", "chat:law", "chat:med", "chat"]
    texts = {name: answer["choices"][0]["message"]["content"] for name, answer in answers.items()}
    assert texts["chat"] == texts["team/chat"]
    assert len(set(texts.values())) == 3
    with pytest.raises(HTTPError) as refused:
        ask("chat:tax")
    refused.value.close()
    assert refused.value.code == 404


def untimed(event: bytes) -> Any:
    """An event without what differs from one request to the next.

    And without the fingerprint: vLLM tells it last, which is with the usage where that is asked for.
    """
    if b"[DONE]" in event:
        return "done"
    return {**json.loads(event[5:]), "id": "", "created": 0, "system_fingerprint": ""}
