"""What holds for any bytes whatever: nothing is raised, pieces read as the whole does, nothing grows beyond its input.

Each function takes the bytes of one trial. Hypothesis calls them with bytes near the grammar in `make check`,
atheris with bytes that it finds by coverage in `make fuzz`. Hence nothing here needs pytest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random
from zlib import crc32

from plinth.domain.access import AccessTable, KeyRecord
from plinth.domain.control_lines import (
    ControlLineError,
    Shutdown,
    decode_line,
    encode_access,
    encode_report,
    encode_shutdown,
    encode_table,
)
from plinth.domain.traffic import LoadReport, RouteTable
from plinth.gateway.access.callers import Caller, Gate
from plinth.gateway.cache.key import answer_key
from plinth.gateway.protocol.errors import Refusal, stream_broken
from plinth.gateway.protocol.probe import probe_body
from plinth.gateway.protocol.request import RequestLimits, RequestReader
from plinth.gateway.protocol.resp import MalformedReplyError, Reply, ReplyReader
from plinth.gateway.protocol.response import ResponseError, ResponseReader
from plinth.gateway.protocol.sse import EventScan
from plinth.gateway.resume.asked import Prepared, prepare, read_asked
from plinth.gateway.resume.continuation import Ask, Joined, resume
from plinth.gateway.resume.events import EventEditor, Splice
from plinth.gateway.routing.blocks import MOST_BLOCKS, blocks_of_bytes
from plinth.gateway.surface.chat import TranslationError
from plinth.gateway.surface.dialects import refusal_document, translate
from plinth.gateway.surface.exchange import Exchange
from plinth.gateway.surface.native import translate_native
from plinth.gateway.surface.renaming import with_model

Property = Callable[[bytes], None]

PATHS = ("/v1/messages", "/v1/responses", "/tokenize", "/detokenize", "/v1/score")
ENGINES = ("VLLM", "LlamaCpp")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BROKEN = stream_broken("it broke")


def dice(data: bytes) -> Random:
    """Chance that is the same for the same bytes, so that a find can be repeated."""
    return Random(crc32(data))  # noqa: S311 - no secret


def cut(data: bytes, most: int = 12) -> list[bytes]:
    """The bytes in pieces of any sizes, single ones and whole lines among them."""
    if len(data) < 2:
        return [data]
    chance = dice(data)
    if len(data) < 200 and chance.random() < 0.2:
        return [data[at : at + 1] for at in range(len(data))]
    places: Sequence[int] = range(1, len(data))
    if chance.random() < 0.4:
        places = [at for at in places if data[at - 1 : at] == b"\n"] or places
    cuts = sorted(chance.sample(places, min(most, len(places))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# --- HTTP ----------------------------------------------------------------------------------------------------


def requests_read_the_same_in_pieces(data: bytes) -> None:
    assert _read_requests([data]) == _read_requests(cut(data))


def _read_requests(pieces: list[bytes]) -> tuple[object, ...]:
    reader = RequestReader(RequestLimits(head=2048, body=4096))
    for piece in pieces:
        reader.feed(piece)
    for request in reader.requests:
        assert len(request.body) <= 4096
        assert sum(len(name) + len(value) for name, value in request.headers) <= 2048
        assert not {b"\r", b"\n", b"\0"} & {bytes([byte]) for byte in request.target}
        for name, value in request.headers:
            assert not set(name + value) & set(b"\r\n\0"), "a header could end the head"
    refusal = reader.refusal
    return (
        [
            (one.method, one.target, one.headers, one.body, one.keep_alive, one.request_id)
            for one in reader.requests
        ],
        None if refusal is None else refusal.status,
    )


def answers_read_the_same_in_pieces(data: bytes) -> None:
    assert _read_answer([data]) == _read_answer(cut(data))


def _read_answer(pieces: list[bytes]) -> tuple[object, ...]:
    reader = ResponseReader()
    body = b""
    try:
        for piece in pieces:
            reader.feed(piece)
            body += reader.take()
    except ResponseError:
        return ()
    return reader.status, reader.headers, body, reader.complete, reader.has_known_end(), reader.overrun


# --- event streams -------------------------------------------------------------------------------------------


def events_pass_whole_and_all(data: bytes) -> None:
    scan, passed = EventScan(), b""
    for piece in cut(data):
        out = scan.feed(piece)
        assert not out or out.endswith((b"\n\n", b"\r\n\r\n"))
        passed += out
    assert passed + scan.flush() == data
    assert scan.events <= data.count(b"data:")


def edited_streams_can_break_anywhere(data: bytes) -> None:
    """A request, a NUL, and what a replica makes of it; then the same bytes come from the next replica."""
    body, _, stream = data.partition(b"\0")
    prepared = prepare(body, seed=7)
    if prepared is None:
        return
    assert _is_json(prepared.body) or not _is_json(body)
    whole, pieces = _edit(prepared, [stream]), _edit(prepared, cut(stream))
    if b"\r" not in stream:  # lines that end otherwise are passed on as they are, once they are seen
        assert whole[0].replace(b"\n", b"") == pieces[0].replace(b"\n", b""), "but for empty lines"
    editor = whole[1]
    assert len(whole[0]) <= 2 * len(stream) + 64
    ledger = editor.ledger
    held = len(ledger.prompt_ids) + sum(len(run.texts) + len(run.ids) for run in ledger.runs)
    assert held <= 2 * len(stream) + 64
    _carry_on(prepared, editor, stream, CHAT if b'"messages"' in body else COMPLETIONS)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _edit(prepared: Prepared, pieces: list[bytes]) -> tuple[bytes, EventEditor]:
    scan = EventScan()
    editor = EventEditor(hides_ids=prepared.hides_ids, hides_usage=prepared.hides_usage)
    out = [editor.feed(scan.feed(piece)) for piece in pieces]
    return b"".join([*out, b"" if editor.failure else scan.flush()]), editor


def _carry_on(prepared: Prepared, splice: Splice, stream: bytes, path: str) -> None:
    chance = dice(stream)
    for _ in range(3):
        questions = resume(prepared, splice.ledger, path)
        try:
            ask: Ask = next(questions)
            while True:
                assert not ask.body or _is_json(ask.body) or not _is_json(prepared.body)
                ask = questions.send(chance.choice([b"", stream, *_REPLICA_SAYS]))
        except StopIteration as end:
            outcome = end.value
        if not isinstance(outcome, Joined):
            assert isinstance(outcome, (bytes, Refusal))
            return
        assert _is_json(outcome.ask.body) or not _is_json(prepared.body)
        splice = outcome.splice
        for event in _events(b"".join([splice.feed(piece) for piece in _whole_events(stream)])):
            assert event == b"[DONE]" or json.loads(event)


_REPLICA_SAYS = (
    b'{"data":[{"max_model_len":4096}]}',
    b'{"prompt":"<s>hello"}',
    b'{"tokens":[{"id":1,"piece":"<s>"},{"id":2,"piece":"a"},{"id":3,"piece":[97]}]}',
    b'{"tokens":[{"id":1,"piece":[256]}]}',
)


def _whole_events(stream: bytes) -> Iterator[bytes]:
    scan = EventScan()
    return (scan.feed(piece) for piece in cut(stream))


def _events(stream: bytes) -> list[bytes]:
    assert not stream or stream.endswith(b"\n\n")
    return [event.removeprefix(b"data: ") for event in stream.split(b"\n\n") if event]


# --- dialects ------------------------------------------------------------------------------------------------


def requests_are_translated_or_refused(data: bytes) -> None:
    for path in PATHS:
        for engine in ENGINES:
            exchange = _translated(path, data, engine)
            if isinstance(exchange, Refusal):
                assert exchange.status == 400
                assert json.loads(refusal_document(path, exchange, "id"))
            elif exchange is not None:
                assert json.loads(exchange.body)
                assert len(exchange.body) <= 8 * len(data) + 1024


def _translated(path: str, body: bytes, engine: str = "LlamaCpp") -> Exchange | Refusal | None:
    native = translate_native(path, body, model="m", engine=engine)
    return native or translate(path, body, model="m", identity="x", created=1)


def answers_are_translated_or_given_up(data: bytes) -> None:
    """Whole answers and streams, in every dialect."""
    for path, body in _ASKED.items():
        exchange = _translated(path, body)
        assert exchange is not None
        assert not isinstance(exchange, Refusal)
        with suppress(TranslationError):
            assert json.loads(exchange.answer(data))
        _stream(exchange, data)


_ASKED = {
    "/v1/messages": b'{"max_tokens":9,"messages":[{"role":"user","content":"a"}],"stream":true}',
    "/v1/responses": b'{"input":"a","stream":true,"temperature":0}',
    "/tokenize": b'{"prompt":"a","return_token_strs":true}',
    "/detokenize": b'{"tokens":[1]}',
    "/v1/score": b'{"text_1":"a","text_2":["b","c"]}',
}


def _stream(exchange: Exchange, data: bytes) -> None:
    said = []
    for pieces in ([data], cut(data)):
        translation = exchange.stream()
        if translation is None:
            return
        out = b"".join([translation.feed(piece) for piece in pieces])
        said.append(out + translation.end() + translation.fail(BROKEN))
    assert said[0] == said[1]
    assert len(said[0]) <= 400 * len(data) + 8192
    for event in said[0].split(b"\n\n")[:-1]:
        assert json.loads(event.partition(b"data: ")[2])


# --- bodies --------------------------------------------------------------------------------------------------


def bodies_are_read_or_refused(data: bytes) -> None:
    probe = probe_body(data)
    if isinstance(probe, Refusal):
        assert probe.status == 400
        probe.message.encode()
    else:
        assert probe.model
    renamed = with_model(data, "other")
    if not isinstance(renamed, Refusal) and _is_json(data):
        assert json.loads(renamed)["model"] == "other"
    read_asked(data)
    key = answer_key(
        data, use="All", tenant="t", model="t/m", revision="1", path="/v1/completions", generates=True
    )
    assert key is None or len(key) == 32
    names = blocks_of_bytes(data * 9, before=data, adapter="a")
    assert len(names) == min(len(data) * 9 // 1024, MOST_BLOCKS)
    assert names[:1] == blocks_of_bytes((data * 9)[:1024], before=data, adapter="a")[:1]


# --- keys, tables, counters ----------------------------------------------------------------------------------

_SECRET_DIGEST = "0" * 64
_GATE = Gate(
    AccessTable(version=1, keys=(KeyRecord(id="pk_1", tenant="t", digest=_SECRET_DIGEST, models=("t/m",)),))
)


def nobody_gets_in_by_rubbish(data: bytes) -> None:
    first, _, second = data.partition(b"\0")
    for shown in ((first, second), (b"Bearer " + first, b"")):
        found = _GATE.admit(*shown, 0.0)
        assert isinstance(found, Refusal)
        assert found.status == 401
        assert not isinstance(found, Caller)


def control_lines_are_read_or_refused(data: bytes) -> None:
    try:
        message = decode_line(data)
    except ControlLineError:
        return
    again = decode_line(_encoded(message))
    assert again == message


def _encoded(message: RouteTable | AccessTable | LoadReport | Shutdown) -> bytes:
    if isinstance(message, RouteTable):
        return encode_table(message)
    if isinstance(message, AccessTable):
        return encode_access(message)
    if isinstance(message, LoadReport):
        return encode_report(message)
    return encode_shutdown(message.deadline_seconds)


def replies_of_redis_read_the_same_in_pieces(data: bytes) -> None:
    whole, in_pieces = _replies([data]), _replies(cut(data))
    assert whole[1] == in_pieces[1]
    if not whole[1]:
        assert whole[0] == in_pieces[0]


def _replies(pieces: list[bytes]) -> tuple[str, bool]:
    reader = ReplyReader()
    found: list[Reply] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
    except MalformedReplyError:
        return "", True
    return repr(found), False


PROPERTIES: dict[str, Property] = {
    each.__name__: each
    for each in (
        requests_read_the_same_in_pieces,
        answers_read_the_same_in_pieces,
        events_pass_whole_and_all,
        edited_streams_can_break_anywhere,
        requests_are_translated_or_refused,
        answers_are_translated_or_given_up,
        bodies_are_read_or_refused,
        nobody_gets_in_by_rubbish,
        control_lines_are_read_or_refused,
        replies_of_redis_read_the_same_in_pieces,
    )
}
"""By the name that `make fuzz` knows them by, and their seeds."""
