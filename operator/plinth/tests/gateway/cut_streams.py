"""Cuts the streams of a real engine and carries them on at the same one, as the gateway would elsewhere."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from plinth.gateway.resume.asked import prepare
from plinth.gateway.resume.continuation import Joined, resume
from plinth.gateway.resume.events import EventEditor, Splice
from plinth.tests.gateway.token_engine import Seen, read_stream

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class RealEngine:
    """An engine's HTTP API."""

    def __init__(self, base: str, secret: str) -> None:
        self._base = base
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {secret}"}

    def fetch(self, path: str, body: bytes = b"") -> bytes:
        request = urllib.request.Request(self._base + path, body or None, self._headers)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
            return bytes(answer.read())

    def carry_on(self, path: str, request: bytes, breaks: list[int]) -> Seen:
        """What a client reads of a stream that is cut after so many events, each time anew."""
        prepared = prepare(request, seed=11)
        assert prepared is not None
        splice: Splice = EventEditor(hides_ids=prepared.hides_ids, hides_usage=prepared.hides_usage)
        out, stream = [], events_of(self.fetch(path, prepared.body))
        for after in breaks:
            out.append(splice.feed(b"".join(stream[:after])))
            questions = resume(prepared, splice.ledger, path)
            try:
                question = next(questions)
                while True:
                    question = questions.send(self.fetch(question.path, question.body))
            except StopIteration as end:
                outcome = end.value
            if isinstance(outcome, bytes):
                return read_stream(b"".join([*out, outcome]))
            assert isinstance(outcome, Joined), outcome
            splice, stream = outcome.splice, events_of(self.fetch(outcome.ask.path, outcome.ask.body))
        out.append(splice.feed(b"".join(stream)))
        assert splice.failure is None
        return read_stream(b"".join(out))


def events_of(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def request_of(path: str, words: str, **fields: Any) -> bytes:
    asked = {"messages": [{"role": "user", "content": words}]} if path == CHAT else {"prompt": words}
    shape = {"model": "chat", "stream": True, "temperature": 0, "max_tokens": 24, **asked, **fields}
    return json.dumps(shape).encode()
