"""What the client of one stream has got: enough to go on elsewhere, in about 15 bytes a token. Pure.

Nothing is decoded as it is recorded: texts stay as the JSON strings that they came as and ids as JSON arrays, both
appended to buffers that read as one JSON array each. They are decoded only when a stream breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from plinth.gateway.resume.shapes import ToolCallPart, Usage

TEXTS: Final = frozenset({"text", "content", "reasoning", "reasoning_content", "refusal"})
"""Where an event may carry text: `text` of completions, the others of a chat's delta. vLLM says `reasoning`,
llama.cpp `reasoning_content`."""
TOOL_CALLS: Final = "tool_calls"
_EMPTY: Final = frozenset({b"null", b'""', b"[]"})


@dataclass(slots=True)
class StreamHead:
    """What every event of the client's stream repeats."""

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None


class Run:
    """Successive events with text of one kind. Each event has one text and one array of ids, both maybe empty."""

    __slots__ = ("ids", "kind", "texts")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.texts = bytearray()
        """JSON strings (for tool calls: arrays), each followed by a comma."""
        self.ids = bytearray()
        """JSON arrays, each followed by a comma; empty throughout where the engine names no tokens."""

    def add(self, text: bytes, ids: bytes | None) -> None:
        """Records one event, in JSON."""
        self.texts += text
        self.texts += b","
        if ids is not None:
            self.ids += ids
            self.ids += b","

    def pieces(self) -> list[str]:
        """The texts, event by event."""
        return _DECODE_TEXTS(b"[" + self.texts[:-1] + b"]")

    def calls(self) -> list[list[ToolCallPart]]:
        """The parts of tool calls, event by event."""
        return _DECODE_CALLS(b"[" + self.texts[:-1] + b"]")

    def token_ids(self) -> list[list[int]]:
        """The ids, event by event."""
        return _DECODE_IDS(b"[" + self.ids[:-1] + b"]")

    def names_tokens(self) -> bool:
        """Whether every event has its ids."""
        return len(self.token_ids()) == len(_DECODE_RAW(b"[" + self.texts[:-1] + b"]"))


_DECODE_TEXTS: Final = msgspec.json.Decoder(list[str]).decode
_DECODE_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_DECODE_IDS: Final = msgspec.json.Decoder(list[list[int]]).decode
DECODE_PARTS: Final = msgspec.json.Decoder(list[ToolCallPart]).decode
_DECODE_CALLS: Final = msgspec.json.Decoder(list[list[ToolCallPart]]).decode


class Ledger:
    """One stream, from its first event to its last, on however many replicas."""

    __slots__ = (
        "finish_reason",
        "finished",
        "head",
        "owed",
        "prompt_ids",
        "rewound",
        "role_given",
        "runs",
        "spoiled",
        "usage",
        "usage_told",
    )

    def __init__(self) -> None:
        self.head: StreamHead | None = None
        """None until the first event."""
        self.prompt_ids = b""
        """JSON array, as vLLM names the prompt's tokens; empty when the engine does not."""
        self.runs: list[Run] = []
        self.role_given = False
        self.finish_reason: str | None = None
        self.finished = False
        """`[DONE]` went out: nothing is missing."""
        self.usage: Usage | None = None
        self.usage_told = False
        self.spoiled: str | None = None
        """Something passed that is not understood; the stream cannot be resumed."""
        self.rewound = False
        """The last run's first event stands for all before a continuation: its text is that of its ids, to the end."""
        self.owed: dict[str, str] = {}
        """Text that the client has beyond what is recorded, by channel: what comes next must begin with it."""

    def record(self, kind: str, text: bytes, ids: bytes | None) -> None:
        """One event that the client gets, or one without text that only says which tokens were made."""
        runs = self.runs
        if not runs or (kind and runs[-1].kind not in {kind, ""}):
            runs.append(Run(kind))
        elif not runs[-1].kind:
            runs[-1].kind = kind  # tokens whose text was still to come
        runs[-1].add(text if kind else b'""', ids)

    def kinds(self) -> set[str]:
        """The kinds of text that the client has seen."""
        return {run.kind for run in self.runs} - {""}

    def names_tokens(self) -> bool:
        """Whether every token is known by its id."""
        return bool(self.prompt_ids) and all(run.names_tokens() for run in self.runs)

    def given(self) -> dict[str, str]:
        """All text that the client has, by channel: a kind, or `2.arguments` for the third tool call's."""
        channels: dict[str, list[str]] = {}
        for run in self.runs:
            if run.kind == TOOL_CALLS:
                for part in (part for event in run.calls() for part in event):
                    for name, text in call_texts(part):
                        channels.setdefault(name, []).append(text)
            elif run.kind:
                channels.setdefault(run.kind, []).extend(run.pieces())
        for name, text in self.owed.items():
            channels.setdefault(name, []).append(text)
        return {name: text for name, texts in channels.items() if (text := "".join(texts))}

    def rewind(self, kept: int, text: str, ahead: str) -> None:
        """Forgets the ids after the first `kept` of the last run, whose text is `text`; the client has `ahead` more."""
        run = self.runs[-1]
        ids = [token for event in run.token_ids() for token in event][:kept]
        renewed = Run(run.kind)
        renewed.add(msgspec.json.encode(text), msgspec.json.encode(ids))
        self.runs[-1] = renewed
        self.owed = {run.kind: ahead}
        self.rewound = True

    def restart(self) -> None:
        """Forgets everything but what the client has: the answer is given again from its beginning."""
        self.owed = self.given()
        self.runs = []
        self.prompt_ids = b""
        self.rewound = False

    def settle(self, channel: str, text: str) -> str | None:
        """What of a text is new to the client; None where it has read something else in its place."""
        owed = self.owed.get(channel)
        if not owed:
            return text
        known = min(len(text), len(owed))
        if text[:known] != owed[:known]:
            return None
        self.owed[channel] = owed[known:]
        return text[known:]

    def owes(self, beside: str = "") -> bool:
        """Whether the client has text that the record still lacks, in a channel other than `beside`."""
        return any(text for channel, text in self.owed.items() if channel != beside)


def text_parts(text: str | None, delta: dict[str, msgspec.Raw] | None) -> list[tuple[str, bytes]]:
    """What an event adds for the client: the kind of each text, and the text (or the calls) in JSON.

    Raises:
        msgspec.DecodeError: a text is no string, or a call no call.
    """
    if delta is None:
        return [("text", msgspec.json.encode(text))] if text else []
    parts = []
    for kind, value in delta.items():
        if bytes(value) in _EMPTY:
            continue
        if kind == TOOL_CALLS:
            DECODE_PARTS(value)
        elif kind not in TEXTS:
            continue
        elif not bytes(value).startswith(b'"'):
            raise msgspec.ValidationError(f"{kind} is no string")
        parts.append((kind, bytes(value)))
    return parts


def call_texts(part: ToolCallPart) -> list[tuple[str, str]]:
    """The texts of a part of a tool call, each with the channel that it continues."""
    function = part.function
    if function is None:
        return []
    texts = (("name", function.name), ("arguments", function.arguments))
    return [(f"{part.index}.{name}", text) for name, text in texts if text]
