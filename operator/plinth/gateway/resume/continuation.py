"""What is asked of another replica so that a broken stream goes on there. Sans-I/O and pure.

`resume` is a generator in the manner of httpx's `auth_flow`: it yields small questions to the replica (vLLM: at most
how long its context is; llama.cpp: the rendered prompt and its tokens), is sent each answer's body (empty for any
status but 200), and returns the request whose stream is to be joined, or the bytes that end the client's stream, or
why there is no going on. Who drives it keeps the whole of it within the request's deadline.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from plinth.gateway.protocol.errors import Refusal, stream_broken
from plinth.gateway.protocol.unreadable import UNREADABLE
from plinth.gateway.resume.asked import Prepared
from plinth.gateway.resume.events import Splice
from plinth.gateway.resume.ledger import Ledger
from plinth.gateway.resume.manner import Manner, choose_manner
from plinth.gateway.resume.splice import ContinuedSplice, ReplayedSplice, closing_events

COMPLETIONS: Final = "/v1/completions"
_COMPLETIONS_DEFAULT_TOKENS: Final = 16
"""OpenAI's and vLLM's `max_tokens` of completions where none is asked for."""
_DROPPED: Final = frozenset(
    {
        *("messages", "prompt", "max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of"),
        *("stream", "stream_options", "return_token_ids", "logprobs", "top_logprobs", "echo", "suffix"),
        *("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls", "response_format"),
        *("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
        *("add_special_tokens", "documents", "reasoning_effort", "include_reasoning", "reasoning_format"),
        *(
            "truncate_prompt_tokens",
            "truncation_side",
            "request_id",
            "return_prompt_text",
            "kv_transfer_params",
        ),
    }
)
"""Fields about how a prompt is made or an answer is parsed; all others, seed and stop strings among them, go on."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the replica."""

    path: str
    body: bytes
    """Empty for a GET."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The request whose stream goes on, and what makes the client's events of it."""

    ask: Ask
    splice: Splice


Outcome = Joined | bytes | Refusal
Questions = Generator[Ask, bytes, Outcome]


class _Model(msgspec.Struct):
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Rendered(msgspec.Struct):
    prompt: str


_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Token(msgspec.Struct):
    id: int
    piece: str | list[_Byte]
    """Bytes, where the token is no whole character."""


class _Tokens(msgspec.Struct):
    tokens: list[_Token]


_MODELS: Final = msgspec.json.Decoder(_Models)
_RENDERED: Final = msgspec.json.Decoder(_Rendered)
_TOKENS: Final = msgspec.json.Decoder(_Tokens)
_PROMPT: msgspec.json.Decoder[str | list[int]] = msgspec.json.Decoder(str | list[int])
T = TypeVar("T")


def resume(prepared: Prepared, ledger: Ledger, path: str) -> Questions:
    """How the stream of a request to `path` goes on at a replica that is yet to be asked."""
    if ledger.finished:
        return b""
    try:
        return (yield from _go_on(prepared, ledger, path))
    except UNREADABLE:  # what passed is recorded as it came, and read only now
        return stream_broken("it cannot be resumed exactly: what the replica wrote cannot be read")


def _go_on(prepared: Prepared, ledger: Ledger, path: str) -> Questions:
    manner = choose_manner(prepared, ledger)
    if isinstance(manner, str):
        return stream_broken(f"it cannot be resumed exactly: {manner}")
    if manner is Manner.CLOSE:
        return closing_events(ledger, wants_usage=prepared.asked.wants_usage())
    if manner is Manner.REPLAY:
        return Joined(Ask(path, prepared.body), ReplayedSplice(prepared, ledger))
    if ledger.names_tokens():
        return (yield from _continue_named(prepared, ledger, path))
    return (yield from _continue_unnamed(prepared, ledger, path))


def _continue_named(prepared: Prepared, ledger: Ledger, path: str) -> Questions:
    """From vLLM's token ids."""
    rewind_to_text(ledger, prepared.asked.withheld_characters())
    ids = [token for run in ledger.runs for event in run.token_ids() for token in event]
    prompt = msgspec.json.decode(ledger.prompt_ids, type=list[int]) + ids
    limit = prepared.asked.most_tokens()
    if limit is None and path == COMPLETIONS:
        limit = _COMPLETIONS_DEFAULT_TOKENS
    if limit is None:
        models = _read((yield Ask("/v1/models", b"")), _MODELS)
        lengths = [] if models is None else [item.max_model_len for item in models.data if item.max_model_len]
        if not lengths:
            return stream_broken("the replica does not say how long its context is")
        limit = lengths[0] - len(prompt) + len(ids)
    return _join(prepared, ledger, prompt, made=len(ids), limit=limit)


def _continue_unnamed(prepared: Prepared, ledger: Ledger, path: str) -> Questions:
    """From llama.cpp's text: one event is one token's, so each text is made a token again by itself."""
    asked = prepared.asked
    if path == COMPLETIONS:
        rendered = _read(bytes(asked.prompt), _PROMPT)
    else:
        answer = _read((yield Ask("/apply-template", prepared.body)), _RENDERED)
        rendered = None if answer is None else answer.prompt
    if rendered is None:
        return _replay_after_all(prepared, ledger, path)
    start: list[str | int] = [rendered] if isinstance(rendered, str) else [*rendered]
    pieces = [piece for run in ledger.runs for piece in run.pieces() if piece] + [*ledger.owed.values()]
    tokens = _read((yield _ask_tokens([*start, *pieces])), _TOKENS)
    made = None if tokens is None else count_tail(tokens.tokens, pieces)
    if made is None and isinstance(rendered, str):
        # Sentencepiece sets a space before every text that it is given: only in one piece it finds the same tokens.
        tokens = _read((yield _ask_tokens([rendered + "".join(pieces)])), _TOKENS)
        made = len(pieces)
    if tokens is None or made is None:
        return _replay_after_all(prepared, ledger, path)
    prompt = [token.id for token in tokens.tokens]
    return _join(prepared, ledger, prompt, made=made, limit=asked.most_tokens())


def _replay_after_all(prepared: Prepared, ledger: Ledger, path: str) -> Outcome:
    """The replica cannot say what its tokens are."""
    if prepared.asked.is_repeatable():
        return Joined(Ask(path, prepared.body), ReplayedSplice(prepared, ledger))
    return stream_broken("it cannot be resumed exactly: the replica does not name its tokens")


def _ask_tokens(content: list[str | int]) -> Ask:
    fields = {"content": content, "add_special": True, "parse_special": True, "with_pieces": True}
    return Ask("/tokenize", msgspec.json.encode(fields))


def _join(prepared: Prepared, ledger: Ledger, prompt: list[int], *, made: int, limit: int | None) -> Outcome:
    """The request for what is left; `made` of the prompt's tokens are the answer's."""
    if limit is not None and made >= limit:
        ledger.finish_reason = "length"
        return closing_events(ledger, wants_usage=prepared.asked.wants_usage(), finish="length")
    fields: dict[str, object] = {
        name: value
        for name, value in msgspec.json.decode(prepared.body, type=dict[str, msgspec.Raw]).items()
        if name not in _DROPPED
    }
    fields |= {
        "prompt": prompt,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    if limit is not None:
        fields["max_tokens"] = limit - made
    if prepared.asked.min_tokens:
        fields["min_tokens"] = max(0, prepared.asked.min_tokens - made)
    return Joined(Ask(COMPLETIONS, msgspec.json.encode(fields)), ContinuedSplice(prepared, ledger, made))


def rewind_to_text(ledger: Ledger, withheld: int) -> None:
    """Drops the last tokens of which the client has no text, or not all.

    A token without text may be half a character, which no engine completes from its ids, or may have begun a
    stop string. Made anew, nothing of it is doubled. vLLM holds `withheld` characters back, so that after an
    event with text the whole text is that much longer than what was sent: this tells where tokens end. Of a
    token whose beginning the client has, the rest must follow: it is made anew as well, and compared.

    "Hello" sent as `He`, `l` under a stop string of 3 characters: the tokens end after 4 and 5 characters of
    text, the client has 3. Both are made anew, and `Hel` is left out of what comes.
    """
    run = ledger.runs[-1]
    pieces, ids = run.pieces(), run.token_ids()
    delivered = "".join(pieces) + ledger.owed.get(run.kind, "")
    sent = made = kept = end = 0
    for at, (piece, tokens) in enumerate(zip(pieces, ids, strict=True)):
        sent += len(piece)
        made += len(tokens)
        known = sent if ledger.rewound and at == 0 else sent + withheld
        if piece and known <= len(delivered):
            kept, end = made, known
    ledger.rewind(kept, delivered[:end], delivered[end:])


def count_tail(tokens: list[_Token], pieces: list[str]) -> int | None:
    """How many of the last tokens spell the pieces, or None when their last ones spell something else."""
    wanted = "".join(pieces).encode()
    spelt = 0
    for count, token in enumerate(reversed(tokens), 1):
        piece = token.piece.encode() if isinstance(token.piece, str) else bytes(token.piece)
        end = len(wanted) - spelt
        if wanted[max(0, end - len(piece)) : end] != piece:
            return None
        spelt += len(piece)
        if spelt == len(wanted):
            return count
    return None


def _read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    try:
        return decoder.decode(body)
    except UNREADABLE:
        return None
