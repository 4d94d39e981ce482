"""Joins the stream of another replica to what the client has: same id, same shape, nothing twice. Pure.

A splice takes the place of the stream's EventEditor: whole events in, the client's bytes out. It writes in the same
ledger, so that a stream can break and go on more than once. Only broken streams come here: every event is decoded.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import msgspec

from plinth.gateway.protocol.unreadable import UNREADABLE
from plinth.gateway.resume.asked import Prepared
from plinth.gateway.resume.events import DONE, Splice
from plinth.gateway.resume.ledger import (
    DECODE_PARTS,
    TOOL_CALLS,
    Ledger,
    StreamHead,
    call_texts,
    text_parts,
)
from plinth.gateway.resume.shapes import LaterChoice, LaterEvent, ToolCallPart, Usage

_EVENT: Final = msgspec.json.Decoder(LaterEvent)


class _Decoding(Splice):
    """What both splices do: take events apart and let the last ones through. What cannot be joined is a failure."""

    def __init__(self, prepared: Prepared, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._wants_usage = prepared.asked.wants_usage()

    def feed(self, data: bytes) -> bytes:
        """Whole events in, the client's bytes out; nothing more once `failure` is set."""
        events = [text[5:].strip() for text in data.split(b"\n\n") if text.startswith(b"data:")]
        return b"".join([self._take(event) for event in events])

    def _take(self, text: bytes) -> bytes:
        if self.failure is not None:
            return b""
        if text == b"[DONE]":
            if self.ledger.finish_reason is None:
                self.failure = "it ended without a reason"
                return b""
            self.ledger.finished = True
            told = self._wants_usage and self.ledger.usage is not None
            return usage_event(self.ledger) + DONE if told else DONE
        return self._take_event(text)

    def _take_event(self, text: bytes) -> bytes:
        try:
            event = _EVENT.decode(text)
            if event.error is not None:
                self.failure = bytes(event.error).decode(errors="replace")[:500]
                return b""
            if event.usage is not None:
                self.ledger.usage = self._whole_usage(event.usage)
            return self._join(event) if event.choices else b""
        except UNREADABLE:
            self.failure = "an event is not understood"
            return b""

    @abstractmethod
    def _join(self, event: LaterEvent) -> bytes:
        """What the client gets of an event."""

    @abstractmethod
    def _whole_usage(self, usage: Usage) -> Usage:
        """The whole answer's usage, by that which this replica tells."""


class ContinuedSplice(_Decoding):
    """From the completion of a token prompt that ends in the `made` tokens of the answer so far."""

    def __init__(self, prepared: Prepared, ledger: Ledger, made: int) -> None:
        super().__init__(prepared, ledger)
        self._made = made

    def _join(self, event: LaterEvent) -> bytes:
        ledger, choice = self.ledger, event.choices[0]
        text = choice.text or ""
        kind = ledger.runs[-1].kind
        fresh = ledger.settle(kind, text)
        ended = choice.finish_reason is not None
        if fresh is None or (ended and ledger.owes()):
            self.failure = "it goes on otherwise than the client has read already"
            return b""
        if text or choice.token_ids:
            ids = None if choice.token_ids is None else msgspec.json.encode(choice.token_ids)
            ledger.record(kind, msgspec.json.encode(text), ids)
        if ended:
            ledger.finish_reason = choice.finish_reason
        elif not fresh:
            return b""
        return text_event(ledger, fresh, finish=choice.finish_reason, stop_reason=choice.stop_reason)

    def _whole_usage(self, usage: Usage) -> Usage:
        return Usage(usage.prompt_tokens - self._made, usage.completion_tokens + self._made)


class ReplayedSplice(_Decoding):
    """From the same answer given again: what the client has must come again, and is left out."""

    def __init__(self, prepared: Prepared, ledger: Ledger) -> None:
        super().__init__(prepared, ledger)
        self._known_role = ledger.role_given
        ledger.restart()

    def _join(self, event: LaterEvent) -> bytes:
        ledger, choice = self.ledger, event.choices[0]
        prompt_ids = event.prompt_token_ids or choice.prompt_token_ids
        if prompt_ids:
            ledger.prompt_ids = msgspec.json.encode(prompt_ids)
        fresh = self._fresh_texts(choice)
        if fresh is None:
            self.failure = "it answers otherwise than the client has read already"
            return b""
        role = choice.delta is not None and "role" in choice.delta and not self._known_role
        if choice.finish_reason is not None:
            if ledger.owes():
                self.failure = "it ended before what the client has read already"
                return b""
            ledger.finish_reason = choice.finish_reason
        elif not fresh and not role:
            return b""
        return self._event(choice, fresh, role=role)

    def _fresh_texts(self, choice: LaterChoice) -> dict[str, object] | None:
        """What of an event is new to the client, by kind; None where the answer differs from the first."""
        ids = None if choice.token_ids is None else msgspec.json.encode(choice.token_ids)
        parts = text_parts(choice.text, choice.delta)
        if not parts and choice.token_ids:
            self.ledger.record("", b"", ids)
        fresh: dict[str, object] = {}
        for kind, value in parts:
            if kind == TOOL_CALLS:
                kept: object = self._fresh_calls(DECODE_PARTS(value))
            else:
                kept = self.ledger.settle(kind, msgspec.json.decode(value, type=str))
            if kept is None:
                return None
            self.ledger.record(kind, value, ids)
            ids = None if ids is None else b"[]"
            if kept:
                fresh[kind] = kept
        return fresh

    def _fresh_calls(self, parts: list[ToolCallPart]) -> list[ToolCallPart] | None:
        """What of parts of tool calls is new to the client; a call that was announced keeps its first id."""
        fresh = []
        for part in parts:
            new = {name: self.ledger.settle(name, text) for name, text in call_texts(part)}
            if None in new.values():
                return None
            if part.function is None or not any(new.values()):
                continue
            part.function.arguments = new.get(f"{part.index}.arguments") or None
            if not new.get(f"{part.index}.name"):
                part.function.name = part.id = part.type = None
            fresh.append(part)
        return fresh

    def _event(self, choice: LaterChoice, texts: dict[str, object], *, role: bool) -> bytes:
        ledger = self.ledger
        if choice.delta is None:
            return text_event(ledger, str(texts.get("text", "")), finish=choice.finish_reason)
        delta: dict[str, object] = dict(texts)
        if role:
            self._known_role = ledger.role_given = True
            delta = {"role": choice.delta["role"], **delta}
        return _event(ledger, _chat_choice(delta, choice.finish_reason, choice.stop_reason))

    def _whole_usage(self, usage: Usage) -> Usage:
        return usage


def text_event(
    ledger: Ledger, text: str, *, finish: str | None = None, stop_reason: int | str | None = None
) -> bytes:
    """An event with text in the shape of the client's stream."""
    head = ledger.head
    if head is not None and head.object == "text_completion":
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        if stop_reason is not None:
            choice["stop_reason"] = stop_reason
        return _event(ledger, choice)
    kind = ledger.runs[-1].kind if ledger.runs else "content"
    return _event(ledger, _chat_choice({kind: text} if text else {}, finish, stop_reason))


def _chat_choice(
    delta: dict[str, object], finish: str | None, stop_reason: int | str | None
) -> dict[str, object]:
    choice: dict[str, object] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    if stop_reason is not None:
        choice["stop_reason"] = stop_reason
    return choice


def usage_event(ledger: Ledger) -> bytes:
    """The event that tells the whole answer's usage."""
    usage = ledger.usage or Usage()
    total = usage.prompt_tokens + usage.completion_tokens
    return _event(ledger, usage={**msgspec.to_builtins(usage), "total_tokens": total})


def closing_events(ledger: Ledger, *, wants_usage: bool, finish: str | None = None) -> bytes:
    """What is missing of a stream whose text is complete; `finish` where the client was not told why it ends."""
    parts = [] if finish is None else [text_event(ledger, "", finish=finish)]
    if wants_usage and not ledger.usage_told:
        if ledger.usage is None and ledger.names_tokens():
            made = sum(len(event) for run in ledger.runs for event in run.token_ids())
            prompt = len(msgspec.json.decode(ledger.prompt_ids, type=list[int]))
            ledger.usage = Usage(prompt, made)
        parts.append(usage_event(ledger) if ledger.usage is not None else b"")
    ledger.finished = True
    return b"".join([*parts, DONE])


def _event(
    ledger: Ledger, choice: dict[str, object] | None = None, usage: dict[str, int] | None = None
) -> bytes:
    head = ledger.head or StreamHead()
    event: dict[str, object] = {
        "id": head.id,
        "object": head.object,
        "created": head.created,
        "model": head.model,
        "choices": [] if choice is None else [choice],
    }
    if head.system_fingerprint is not None:
        event["system_fingerprint"] = head.system_fingerprint
    if usage is not None:
        event["usage"] = usage
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
