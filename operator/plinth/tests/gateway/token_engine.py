"""An engine in a few lines: answers chat and completions from tokens, as vLLM or llama.cpp would put it in events.

Its next token depends on every token before it, so that a continuation from other ids goes on otherwise. What it
claims about the real engines' events is held against them in test_resume_llamacpp.py and test_resume_vllm.py.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

PIECES = [
    "",
    " the",
    " sea",
    '"',
    "\\",
    "\n",
    " ü",
    " said",
    "ly",
    ".",
    " end",
    "{",
    "}",
    " 🎉",
    "a",
    "b",
    "ab",
]
EOS = 0
FIRST_TEXT = 1000
"""Ids below are the pieces', ids above are characters of a prompt."""


def tokens_of(text: str) -> list[int]:
    return [FIRST_TEXT + ord(character) for character in text]


def retokenize(text: str) -> list[int]:
    """The tokens of an answer's text, the longest first."""
    ids: list[int] = []
    while text:
        piece = max((piece for piece in PIECES if piece and text.startswith(piece)), key=len)
        ids.append(PIECES.index(piece))
        text = text[len(piece) :]
    return ids


def text_of(ids: list[int]) -> str:
    return "".join(PIECES[token] if token < FIRST_TEXT else chr(token - FIRST_TEXT) for token in ids)


def next_token(ids: list[int], seed: int) -> int:
    return zlib.crc32(repr((ids, seed)).encode()) % len(PIECES)


@dataclass
class Engine:
    """One replica. `ends` is the number of tokens after which the model ends its answer."""

    names_tokens: bool = True
    ends: int = 24
    parser: Callable[[list[tuple[str, list[int]]]], Iterator[tuple[dict[str, Any], list[int]]]] | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    context: int = 4096
    stray: int = 0
    """Another number makes another model of it."""

    def small(self, path: str, body: bytes) -> bytes:
        """The answers to questions before a continuation."""
        self.asked.append((path, json.loads(body or b"{}")))
        fields = self.asked[-1][1]
        if path == "/v1/models":
            return json.dumps({"data": [{"id": "m", "max_model_len": self.context}]}).encode()
        if path == "/apply-template" and not self.names_tokens:
            return json.dumps({"prompt": render(fields["messages"])}).encode()
        if path == "/tokenize" and not self.names_tokens:
            ids: list[int] = []
            for part in fields["content"]:
                ids += tokens_of(part) if part is fields["content"][0] else retokenize(part)
            return json.dumps({"tokens": [{"id": one, "piece": text_of([one])} for one in ids]}).encode()
        return b""

    def stream(self, path: str, body: bytes) -> list[bytes]:
        """The events of an answer."""
        fields = json.loads(body)
        self.asked.append((path, fields))
        chat = path == "/v1/chat/completions"
        prompt = render(fields["messages"]) if chat else fields["prompt"]
        ids = tokens_of(prompt) if isinstance(prompt, str) else list(prompt)
        limit = fields.get("max_tokens") or (self.context - len(ids) if chat or not self.names_tokens else 16)
        steps, finish, stop = self._generate(ids, fields, limit, answered=count_answer(ids))
        named = self.names_tokens and bool(fields.get("return_token_ids"))
        events = self._events(steps, finish, stop, chat=chat, prompt=ids if named else None)
        if (fields.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": len(ids), "completion_tokens": sum(len(made) for _, made in steps)}
            usage["total_tokens"] = sum(usage.values())
            events.append({"choices": [], "usage": usage})
        number = len(self.asked)
        head = {
            "id": f"x-{id(self)}-{number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
        }
        shaped = [{**head, "created": number, "model": "m", **event} for event in events]
        texts = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in shaped]
        return [f"data: {text}\n\n".encode() for text in [*texts, "[DONE]"]]

    def _generate(
        self, prompt: list[int], fields: dict[str, Any], limit: int, answered: int
    ) -> tuple[list[tuple[str, list[int]]], str, str | None]:
        """Steps of text and ids, as the detokenizer gives them out, and why it ended."""
        stops = fields.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        held = max(map(len, stops)) - 1 if stops and self.names_tokens else 0
        ids, steps, text, sent = list(prompt), [], "", 0
        for made in range(1, limit + 1):
            token = EOS
            if answered + made <= self.ends:
                token = max(1, next_token(ids, fields.get("seed", 0) + self.stray))
            ids.append(token)
            text += PIECES[token]
            found = min((text.find(stop) for stop in stops if stop in text), default=-1)
            if found >= 0 or token == EOS:
                end = found if found >= 0 else len(text)
                steps.append((text[sent:end], [token]))
                return steps, "stop", next((stop for stop in stops if stop in text), None)
            ready = max(sent, len(text) - held)
            if not self.names_tokens and any(text[-k:] == s[:k] for s in stops for k in range(1, len(s))):
                ready = sent
            steps.append((text[sent:ready], [token]))
            sent = ready
        last, made_last = steps.pop()
        return [*steps, (last + text[sent:], made_last)], "length", None

    def _events(
        self,
        steps: list[tuple[str, list[int]]],
        finish: str,
        stop: str | None,
        *,
        chat: bool,
        prompt: list[int] | None,
    ) -> list[dict[str, Any]]:
        named = prompt is not None
        if not chat:
            out = []
            for number, (text, ids) in enumerate(steps):
                choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
                choice["stop_reason"] = None
                if self.names_tokens:
                    choice["prompt_token_ids"] = prompt if named and not number else None
                    choice["token_ids"] = ids if named else None
                out.append({"choices": [choice]})
            out[-1]["choices"][0] |= {"finish_reason": finish, "stop_reason": stop}
            return out
        first: dict[str, Any] = {
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None}]
        }
        if self.names_tokens:
            first["prompt_token_ids"] = prompt
        out = [first]
        parsed: list[tuple[dict[str, Any], list[int]]] = [({"content": text}, ids) for text, ids in steps]
        if self.parser is not None:
            parsed = list(self.parser(steps))
        for delta, ids in parsed:
            if not delta and not named and ids is not parsed[-1][1]:
                continue
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            if self.names_tokens:
                choice["token_ids"] = ids if named else None
            out.append({"choices": [choice]})
        out[-1]["choices"][0]["finish_reason"] = finish
        return out


def render(messages: list[dict[str, str]]) -> str:
    return "".join(message["content"] for message in messages) + ">"


def count_answer(ids: list[int]) -> int:
    """Tokens of a prompt that are an answer's so far."""
    return sum(token < FIRST_TEXT for token in ids)


def think_first(steps: list[tuple[str, list[int]]]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Takes the first third of an answer for thoughts; the step between is a mark that the client never sees."""
    for number, (text, ids) in enumerate(steps):
        if number * 3 < len(steps):
            yield {"reasoning": text}, ids
        elif (number - 1) * 3 < len(steps):
            yield {}, ids
        else:
            yield {"content": text}, ids


def call_a_tool(steps: list[tuple[str, list[int]]]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Takes the second half of an answer for a tool call, under an id that is another each time."""
    half = len(steps) // 2
    for number, (text, ids) in enumerate(steps):
        if number < half:
            yield {"content": text}, ids
        elif number == half:
            call = {"index": 0, "id": f"call-{id(steps)}", "type": "function", "function": {"name": "look"}}
            yield {"tool_calls": [call]}, ids
        else:
            yield {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}, ids


@dataclass
class Seen:
    """What a client makes of a stream."""

    texts: dict[str, str]
    finish: str | None
    usage: dict[str, int] | None
    ids: set[str]
    done: bool
    calls: set[str]


def read_stream(data: bytes) -> Seen:
    seen = Seen({}, None, None, set(), done=False, calls=set())
    for line in data.decode().split("\n\n"):
        if line == "data: [DONE]":
            seen.done = True
        elif line:
            assert not seen.done, "nothing follows the end"
            event = json.loads(line.removeprefix("data: "))
            assert not event.get("prompt_token_ids"), "the client did not ask for ids"
            seen.ids.add(event["id"])
            assert not (seen.usage and event.get("usage")), "the usage is told once"
            seen.usage = event.get("usage") or seen.usage
            for choice in event["choices"]:
                assert seen.finish is None, "nothing follows the reason of the end"
                assert not choice.get("token_ids")
                _read_choice(seen, choice)
    return seen


def _read_choice(seen: Seen, choice: dict[str, Any]) -> None:
    delta = choice.get("delta") or {"text": choice.get("text")}
    for kind, value in delta.items():
        if kind == "tool_calls":
            for part in value:
                seen.calls |= {part["id"]} if part.get("id") else set()
                for name, text in part["function"].items():
                    key = f"{part['index']}.{name}"
                    seen.texts[key] = seen.texts.get(key, "") + (text or "")
        elif value and kind != "role":
            seen.texts[kind] = seen.texts.get(kind, "") + value
        elif kind == "role":
            assert "role" not in seen.texts, "the role is told once"
            seen.texts["role"] = value
    seen.finish = choice.get("finish_reason")
