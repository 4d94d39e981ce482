"""Which answers are kept, for how long, and which go first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.cache.answer import Answer, cache_status, is_worth_keeping, pack, unpack
from plinth.gateway.cache.memory import AnswerMemory

DOCUMENT = b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{}}'
STREAM = (
    b'data: {"choices":[{"delta":{"content":"h"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"i"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def make_answer(body: bytes = DOCUMENT) -> Answer:
    return Answer(((b"content-type", b"application/json"),), body, 12, 3)


def is_kept(body: bytes, *, status: int = 200, event_stream: bool = False, generates: bool = True) -> bool:
    return is_worth_keeping(status, body, event_stream=event_stream, generates=generates)


def test_complete_answers_are_kept() -> None:
    assert is_kept(DOCUMENT)
    assert is_kept(STREAM, event_stream=True)
    assert is_kept(STREAM.replace(b'"stop"', b'"tool_calls"'), event_stream=True)
    assert is_kept(b'{"data":[{"embedding":[0.1]}]}', generates=False)


@pytest.mark.parametrize("status", [201, 206, 400, 429, 500])
def test_only_status_200_is_kept(status: int) -> None:
    assert not is_kept(DOCUMENT, status=status)


@pytest.mark.parametrize("reason", [b'"abort"', b'"error"', b'"repetition"', b'"other"', b"null"])
def test_an_answer_that_ended_for_the_engines_own_reason_is_not_kept(reason: bytes) -> None:
    assert not is_kept(DOCUMENT.replace(b'"stop"', reason))
    assert not is_kept(STREAM.replace(b'"stop"', reason), event_stream=True)


def test_of_several_choices_all_must_have_ended_well() -> None:
    both = DOCUMENT[:-13] + b',{"index":1,"finish_reason": "abort"}]}'
    assert not is_kept(both)
    assert is_kept(both.replace(b"abort", b"length"))


def test_text_about_finish_reasons_is_text() -> None:
    assert is_kept(DOCUMENT.replace(b'"hi"', rb'"{\"finish_reason\": \"abort\"}"'))


def test_a_stream_without_its_end_or_with_an_error_is_not_kept() -> None:
    assert not is_kept(STREAM[: -len(b"data: [DONE]\n\n")], event_stream=True)
    assert not is_kept(
        STREAM.replace(b"data: [DONE]", b'data: {"error":{}}\n\ndata: [DONE]'), event_stream=True
    )
    assert not is_kept(b"", event_stream=True, generates=False)


def test_an_answer_survives_the_way_to_another_store_and_back() -> None:
    assert unpack(pack(make_answer(b"\x00\xff"))) == make_answer(b"\x00\xff")


@given(st.binary(max_size=40))
def test_foreign_bytes_in_the_store_are_no_answer(data: bytes) -> None:
    assert unpack(data) is None


def test_the_header_names_the_cache_and_what_it_did() -> None:
    assert cache_status("hit", ttl_seconds=29.7) == (b"cache-status", b"plinth; hit; ttl=30")
    assert cache_status("fwd=miss; collapsed") == (b"cache-status", b"plinth; fwd=miss; collapsed")


def make_memory(answers: int = 3) -> AnswerMemory:
    weight = make_answer().weight
    return AnswerMemory(most_bytes=answers * weight, answer_bytes=weight)


def test_an_answer_is_found_until_its_time_is_up() -> None:
    memory = make_memory()
    memory.keep(b"a", make_answer(), 60, now=100.0)
    assert memory.find(b"a", 100.0) == (make_answer(), 60)
    assert memory.find(b"a", 159.5) == (make_answer(), 0.5)
    assert memory.find(b"a", 160.0) is None
    assert (len(memory), memory.weight) == (0, 0)


def test_the_one_not_used_for_longest_makes_room() -> None:
    memory = make_memory()
    for name in (b"a", b"b", b"c"):
        memory.keep(name, make_answer(), 60, now=0.0)
    memory.find(b"a", 1.0)
    memory.keep(b"d", make_answer(), 60, now=2.0)
    assert [memory.find(name, 3.0) is not None for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    memory = make_memory()
    memory.keep(b"a", make_answer(), 60, now=0.0)
    memory.keep(b"a", make_answer(b"{}"), 60, now=30.0)
    assert memory.find(b"a", 80.0) == (make_answer(b"{}"), 10.0)
    assert memory.weight == make_answer(b"{}").weight


def test_an_answer_larger_than_one_may_be_is_not_kept() -> None:
    memory = make_memory()
    memory.keep(b"a", make_answer(DOCUMENT + b" "), 60, now=0.0)
    memory.keep(b"b", make_answer(), 0, now=0.0)
    assert len(memory) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(0, 400), st.integers(0, 9)),
        max_size=40,
    )
)
def test_the_bound_holds_whatever_is_kept_and_found(steps: list[tuple[bytes, int, int]]) -> None:
    memory = AnswerMemory(most_bytes=4000, answer_bytes=1100)
    for now, (name, size, seconds) in enumerate(steps):
        if size % 3:
            memory.keep(name, make_answer(b"x" * size), seconds, now)
        else:
            memory.find(name, now)
        assert memory.weight == sum(answer.weight for answer, _ in memory._kept.values())
        assert memory.weight <= 4000
