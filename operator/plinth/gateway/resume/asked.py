"""What a streamed request asks for, and what is added so that its stream can go on elsewhere. Pure.

Added is `return_token_ids` (vLLM then names each event's tokens; llama.cpp ignores it) and, where the client did not
ask, `stream_options.include_usage`. Both are spliced in front of the body's first field, so that a field of the
client's own comes later and wins, as the last of two equal names does for both engines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from plinth.gateway.protocol.unreadable import UNREADABLE

_NOTHING: Final = msgspec.Raw(b"null")
_PLAIN_FORMATS: Final = frozenset({b"null", b'{"type":"text"}'})
_MEDIA: Final = re.compile(rb'"(?:image_url|image_embeds|input_audio|audio_url|video_url)"')
"""Names of a message's parts; the same words in a text have escaped quotes. One pass, for prompts may be long."""
_SEVERAL: Final = re.compile(rb'\[\s*["\[]')


class StreamOptions(msgspec.Struct):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None


class Asked(msgspec.Struct):
    """The fields of a body on which resuming depends; the rest is skipped, not decoded."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: bool | int | None = None
    use_beam_search: bool | None = None
    return_token_ids: bool | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = _NOTHING
    response_format: msgspec.Raw = _NOTHING
    structured_outputs: msgspec.Raw = _NOTHING
    grammar: msgspec.Raw = _NOTHING
    json_schema: msgspec.Raw = _NOTHING
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    thinking_token_budget: int | None = None
    mirostat: int | None = None

    def most_tokens(self) -> int | None:
        """How many tokens the answer may have; None for as many as the context holds."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def wants_usage(self) -> bool:
        """Whether the client is to see the usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def withheld_characters(self) -> int:
        """Characters that vLLM holds back so that a stop string is never begun: the longest's length less one.

        `stop_buffer_length` in vllm/v1/engine/detokenizer.py.
        """
        if not self.stop or self.include_stop_str_in_output:
            return 0
        return max(map(len, [self.stop] if isinstance(self.stop, str) else self.stop)) - 1

    def is_repeatable(self) -> bool:
        """Whether an engine gives the same answer again, as far as it can."""
        return self.temperature == 0 or self.top_k == 1 or self.seed is not None


_DECODER: Final = msgspec.json.Decoder(Asked)


def read_asked(body: bytes) -> Asked | None:
    """The fields, or None for a body that the engine itself will refuse."""
    try:
        return _DECODER.decode(body)
    except UNREADABLE:
        return None


def obstacle(asked: Asked) -> str | None:
    """Why the stream of such a request cannot be resumed, or None.

    Several answers in one stream, and log-probabilities, whose offsets count from the first token, have no
    place from which one of them could go on.
    """
    if (asked.n or 1) > 1 or (asked.best_of or 1) > 1 or asked.use_beam_search:
        return "it asks for several answers at once"
    if asked.echo:
        return "it echoes its prompt"
    if asked.logprobs is not None and asked.logprobs is not False:
        return "it asks for log-probabilities"
    if _SEVERAL.match(asked.prompt):
        return "it asks about several prompts at once"
    return None


def needs_replay(asked: Asked) -> bool:
    """Whether the engine carries more than the tokens from one step to the next.

    A tool call's parser, a grammar, penalties that count answered tokens only, a budget of thinking and
    mirostat's mean all begin anew with a new request; pictures are no tokens. Such an answer can only be asked
    for again from its beginning and compared.
    """
    calls = bool(asked.tools or asked.functions) and bytes(asked.tool_choice) != b'"none"'
    return (
        calls
        or not _is_plain(asked.response_format)
        or not (asked.structured_outputs is asked.grammar is asked.json_schema is _NOTHING)
        or bool(asked.presence_penalty or asked.frequency_penalty or asked.mirostat)
        or asked.thinking_token_budget is not None
        or _MEDIA.search(asked.messages) is not None
    )


def _is_plain(format_: msgspec.Raw) -> bool:
    return format_ is _NOTHING or bytes(format_).replace(b" ", b"") in _PLAIN_FORMATS


@dataclass(slots=True)
class Prepared:
    """A streamed request as the replica gets it, and what of the answer is not for the client."""

    body: bytes
    asked: Asked
    resumes: bool
    """What the client gets is recorded."""
    hides_ids: bool
    """The client did not ask for token ids."""
    hides_usage: bool
    """The client did not ask for the usage."""
    replays: bool
    """Resuming means asking for the whole answer again."""


def prepare(body: bytes, seed: int, *, resumes: bool = True) -> Prepared | None:
    """The request with what resuming needs; None when the body is no stream's, or an engine will refuse it.

    Where it is not to be resumed (or cannot be) that is only the usage, which limits need.

    `seed` is any number: an answer that can only be replayed is given it, where the client leaves the choice
    to the engine, so that the same answer comes twice. (vLLM samples seeded requests one by one, hence the
    others are left alone.)
    """
    asked = read_asked(body)
    if asked is None or not asked.stream:
        return None
    added = []
    resumes = resumes and obstacle(asked) is None
    replays = needs_replay(asked)
    hides_ids = resumes and asked.return_token_ids is None
    if hides_ids:
        added.append(b'"return_token_ids":true,')
    hides_usage = asked.stream_options is None
    if hides_usage:
        added.append(b'"stream_options":{"include_usage":true},')
    if resumes and replays and not asked.is_repeatable():
        asked.seed = seed
        added.append(b'"seed":%d,' % seed)
    if added:
        start = body.index(b"{") + 1
        body = b"".join((body[:start], *added, body[start:]))
    return Prepared(body, asked, resumes, hides_ids, hides_usage, replays)
