"""What is read of an event stream as it passes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.sse import EventScan, Tail

EVENTS = st.lists(
    st.text("abc{}\\\"': ", max_size=20).map(lambda text: f"data: {text}\n\n".encode()), max_size=8
)


def pieces_of(data: bytes, draw: st.DataObject) -> list[bytes]:
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data)), max_size=10)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@given(EVENTS, st.booleans(), st.data())
def test_only_whole_events_pass_and_none_is_lost_or_miscounted(
    events: list[bytes], crlf: object, draw: st.DataObject
) -> None:
    data = b"".join(events)
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    scan, out = EventScan(), b""
    for piece in pieces_of(data, draw):
        passed = scan.feed(piece)
        assert not passed or passed.endswith((b"\n\n", b"\r\n\r\n"))
        out += passed
    assert out + scan.flush() == data
    assert scan.events == len(events)


@given(st.binary(max_size=30_000), st.data())
def test_the_tail_is_the_last_8_kib_whatever_the_pieces(data: bytes, draw: st.DataObject) -> None:
    tail = Tail()
    for piece in pieces_of(data, draw):
        tail.add(piece)
    assert tail.bytes() == data[-8192:]


def test_the_last_usage_counts_and_generated_text_cannot_fake_it() -> None:
    tail = Tail()
    tail.add(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n')
    tail.add(b'data: {"usage":{"completion_tokens": 42, "prompt_tokens" :7,"details":{"x":{}}}}\n\n')
    tail.add(
        b'data: {"choices":[{"delta":{"content":"\\"usage\\":{\\"completion_tokens\\":9}"}}]}\n\ndata: [DONE]\n\n'
    )
    usage = tail.usage()
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 42)


def test_a_stream_without_usage_has_none() -> None:
    tail = Tail()
    tail.add(b'data: {"choices":[],"usage":null}\n\n')
    usage = tail.usage()
    assert (usage.prompt_tokens, usage.completion_tokens) == (None, None)


def test_a_comment_passes_and_is_no_event() -> None:
    scan = EventScan()
    assert scan.feed(b": ping\n\n") == b": ping\n\n"
    assert scan.events == 0


def test_an_event_without_end_is_not_held_forever() -> None:
    scan, passed = EventScan(), 0
    for _ in range(100):
        passed += len(scan.feed(b"x" * 10_000))
    assert passed > 500_000
