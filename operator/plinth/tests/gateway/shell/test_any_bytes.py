"""What holds for any bytes, tried with bytes that are nearly right; `make fuzz` tries longer, guided by coverage."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plinth.tests.gateway.shell.properties import PROPERTIES, Property
from plinth.tests.gateway.shell.seeds import SEEDS, tokens_of
from plinth.tests.searching import examples

NESTED = (b"[", b'{"a":', b"*1\r\n")


@st.composite
def spoiled_seeds(draw: st.DrawFn, name: str) -> bytes:
    """A seed of which some parts are left out, doubled, moved or replaced."""
    data = draw(st.sampled_from(SEEDS[name]))
    parts = st.sampled_from(tokens_of(name)) | st.binary(max_size=4)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 30)))
        data = data[:at] + draw(st.sampled_from([b"", data[at:until] * 2]) | parts) + data[until:]
    return data


def mixtures(name: str) -> st.SearchStrategy[bytes]:
    """Parts of the seeds in any order, and rubbish."""
    parts = st.sampled_from(tokens_of(name)) | st.sampled_from(SEEDS[name]) | st.binary(max_size=4)
    return st.lists(parts, max_size=30).map(b"".join)


@pytest.mark.parametrize(("name", "holds"), PROPERTIES.items(), ids=PROPERTIES)
@settings(examples(150), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(draw=st.data())
def test_nothing_is_raised_and_pieces_read_as_the_whole(
    name: str, holds: Property, draw: st.DataObject
) -> None:
    holds(draw.draw(spoiled_seeds(name) | mixtures(name)))


@pytest.mark.parametrize(("name", "holds"), PROPERTIES.items(), ids=PROPERTIES)
def test_seeds_and_their_beginnings_hold(name: str, holds: Property) -> None:
    for seed in SEEDS[name]:
        for end in range(0, len(seed) + 1, 7):
            holds(seed[:end])
        holds(seed)


@pytest.mark.parametrize(
    "start", [b"", b'{"model":"m","stream":true,"messages":', b'{"type":"table","x":', b"data: "]
)
@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("holds", PROPERTIES.values(), ids=PROPERTIES)
def test_what_is_nested_without_end_is_refused(holds: Property, start: bytes, nested: bytes) -> None:
    holds(start + nested * 5000)


ASKED = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}\0'
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null,"token_ids":[%b]}]}\n\n'
ONCE_RAISED = {
    "blank lines": ASKED + b"\n\n\n",
    "JSON with spaces": ASKED + b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n',
    "lists for ids": ASKED + WORD % b"[1],[2]" * 2,
    "ids of some events only": ASKED + WORD % b"1" + WORD.replace(b"token_", b"") % b"2" + WORD % b"3",
    "text in a list of ids, and the end of an event": ASKED + WORD % b"1" + WORD % b'3,"\n\n:[3',
    "an event after an error": ASKED + WORD % b"1" + b'data: {"error":{}}\n\n' + WORD % b"2",
    "an event behind a comment": ASKED + b": yes\n" + WORD % b"1",
}


@pytest.mark.parametrize("data", ONCE_RAISED.values(), ids=ONCE_RAISED)
def test_what_was_found_once_stays_mended(data: bytes) -> None:
    PROPERTIES["edited_streams_can_break_anywhere"](data)
