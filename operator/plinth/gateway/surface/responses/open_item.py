"""The item of a stream that is being written: what kind it is decides how it begins and ends. Pure."""

from __future__ import annotations

from typing import Protocol

import msgspec

from plinth.gateway.surface.reading import Fields
from plinth.gateway.surface.responses.document import call_item, message_item, reasoning_item, text_part


class OpenItem(Protocol):
    """One item of a response."""

    item_id: str
    name: bytes
    """The id as the templates of events take it."""
    pieces: list[str]
    """What was said so far."""

    def begun(self) -> Fields:
        """The item as it is announced."""

    def part(self) -> Fields | None:
        """Its content part as it stands; None for a kind without parts."""

    def done_event(self) -> tuple[str, Fields]:
        """The event that repeats all deltas."""

    def document(self, status: str) -> Fields:
        """The item at its end."""


class Text:
    """What the model says."""

    __slots__ = ("item_id", "logprobs", "name", "pieces")

    def __init__(self, item_id: str) -> None:
        self.item_id = item_id
        self.name = item_id.encode()
        self.pieces: list[str] = []
        self.logprobs: list[msgspec.Raw] = []

    def begun(self) -> Fields:
        """As announced."""
        return message_item(self.item_id, [], "in_progress")

    def part(self) -> Fields:
        """As it stands."""
        return text_part("".join(self.pieces), self.logprobs)

    def done_event(self) -> tuple[str, Fields]:
        """All deltas at once."""
        return "response.output_text.done", {"text": "".join(self.pieces), "logprobs": self.logprobs}

    def document(self, status: str) -> Fields:
        """At its end."""
        return message_item(self.item_id, [self.part()], status)


class Thinking:
    """What it thinks before."""

    __slots__ = ("item_id", "name", "pieces")

    def __init__(self, item_id: str) -> None:
        self.item_id = item_id
        self.name = item_id.encode()
        self.pieces: list[str] = []

    def begun(self) -> Fields:
        """As announced."""
        return reasoning_item(self.item_id, "", "in_progress")

    def part(self) -> Fields:
        """As it stands."""
        return {"type": "reasoning_text", "text": "".join(self.pieces)}

    def done_event(self) -> tuple[str, Fields]:
        """All deltas at once."""
        return "response.reasoning_text.done", {"text": "".join(self.pieces)}

    def document(self, status: str) -> Fields:
        """At its end."""
        return reasoning_item(self.item_id, "".join(self.pieces), status)


class Call:
    """A function that it wants called."""

    __slots__ = ("_call_id", "_function", "item_id", "name", "pieces")

    def __init__(self, item_id: str, *, call_id: str, function: str) -> None:
        self.item_id = item_id
        self.name = item_id.encode()
        self.pieces: list[str] = []
        self._call_id = call_id
        self._function = function

    def begun(self) -> Fields:
        """As announced."""
        return self.document("in_progress")

    def part(self) -> None:
        """It has none."""

    def done_event(self) -> tuple[str, Fields]:
        """All deltas at once."""
        return "response.function_call_arguments.done", {
            "name": self._function,
            "arguments": "".join(self.pieces),
        }

    def document(self, status: str) -> Fields:
        """At its end."""
        return call_item(
            self.item_id,
            call_id=self._call_id,
            name=self._function,
            arguments="".join(self.pieces),
            status=status,
        )
