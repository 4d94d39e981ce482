"""Whose trace a request joins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.telemetry.tracing import FRESH_BYTES, join_trace

FRESH = bytes(range(1, FRESH_BYTES + 1))
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01".encode()


def test_a_callers_trace_is_joined_and_its_choice_kept() -> None:
    trace = join_trace(PARENT, fresh=FRESH, share=0.0)
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (TRACE_ID, PARENT_ID, True)
    assert trace.header() == (b"traceparent", f"00-{TRACE_ID}-191a1b1c1d1e1f20-01".encode())
    quiet = join_trace(PARENT[:-1] + b"0", fresh=FRESH, share=1.0)
    assert not quiet.sampled
    assert quiet.header()[1].endswith(b"-00")


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"00",
        PARENT[:-1],
        PARENT + b"-more",  # version 00 ends here
        PARENT.upper(),
        b"ff" + PARENT[2:],
        b"0x" + PARENT[2:],
        PARENT.replace(TRACE_ID.encode(), b"0" * 32),
        PARENT.replace(PARENT_ID.encode(), b"0" * 16),
        PARENT.replace(b"-", b"_"),
        b"01" + PARENT[2:] + b"more",
    ],
)
def test_without_a_valid_parent_a_trace_begins(header: bytes | None) -> None:
    trace = join_trace(header, fresh=FRESH, share=1.0)
    assert (trace.trace_id, trace.parent_id, trace.span_id) == (FRESH[:16].hex(), "", FRESH[16:24].hex())


def test_a_later_version_may_say_more() -> None:
    assert join_trace(b"01" + PARENT[2:] + b"-more", fresh=FRESH, share=0.0).trace_id == TRACE_ID


@given(st.binary(max_size=70))
def test_no_header_breaks_it(header: bytes) -> None:
    join_trace(header, fresh=FRESH, share=0.5)


@pytest.mark.parametrize(
    ("last", "share", "sampled"), [(0x7F, 0.5, True), (0x80, 0.5, False), (0xFF, 1.0, True)]
)
def test_a_share_of_new_traces_is_sampled(last: int, share: float, *, sampled: bool) -> None:
    fresh = bytes(8) + bytes([last]) + FRESH[9:]
    assert join_trace(None, fresh=fresh, share=share).sampled is sampled
    assert not join_trace(None, fresh=fresh, share=0.0).sampled
