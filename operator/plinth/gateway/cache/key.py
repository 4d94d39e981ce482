"""Which requests ask the same: a body to the key of its answer, or to None when it must not be repeated. Pure.

Two bodies get one key when no engine can tell them apart: the order of fields in the request, in a message and in
a part of its content says nothing, nor do fields that are null, and some only concern accounting. All else tells:
schemas and tools keep their order, since an engine writes them into the prompt, and generates by them, in the
order in which they came. A default is left in place where an engine's own arguments can change what its absence
means (vLLM reads temperature, top_p and others from the model's generation_config.json).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from plinth.domain.access import CacheUse

_SAYS_NOTHING: Final = frozenset(
    {
        "metadata",
        "priority",
        "prompt_cache_key",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",  # stands in the key by itself
        "stream_options",  # put back for streams
        "user",
    }
)
"""Fields that change who is billed, what is logged or when it runs, never what is answered."""
_DEFAULTS: dict[str, object] = {"echo": False, "logprobs": False, "n": 1, "stop": []}
"""Fields whose absence means this in every engine, whatever its arguments."""
_DECODER: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()


def answer_key(
    body: bytes, *, use: CacheUse, tenant: str, model: str, revision: str, path: str, generates: bool
) -> bytes | None:
    """32 bytes that name the answer; None when the request must be computed.

    `revision` must change with anything that changes answers: weights, engine, its arguments. While several
    revisions serve the model it names them all. `path` is the engine's, after any translation of the request.
    """
    if use == "Off":
        return None
    try:
        request = _DECODER.decode(body)
        if not isinstance(request, dict) or (use != "All" and generates and not _is_greedy(request)):
            return None
        canonical = _ENCODER.encode(_canonical(request))
    except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError):
        return None  # the engine shall say what is wrong with it
    if b'_url":' in canonical and not _holds_its_media(request):
        return None
    name = _ENCODER.encode((tenant, model, revision, path, request.get("stream") is True))
    return blake2b(canonical, digest_size=32, key=blake2b(name).digest()).digest()


def wishes(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bool, bool]:
    """Whether the client takes a kept answer, and whether its own may be kept (RFC 9111, section 5.2.1)."""
    takes = keeps = True
    for name, value in headers:
        if name == b"cache-control":
            directives = {item.strip() for item in value.lower().split(b",")}
            keeps = keeps and b"no-store" not in directives
            takes = takes and directives.isdisjoint({b"no-store", b"no-cache", b"max-age=0"})
    return takes, keeps


def _is_greedy(request: dict[str, Any]) -> bool:
    """Only when it says so itself: engines do not agree on the default."""
    temperature = request.get("temperature")
    return temperature == 0 and not isinstance(temperature, bool)


def _canonical(request: dict[str, Any]) -> dict[str, Any]:
    told = {
        name: _number(value)
        for name, value in sorted(request.items())
        if value is not None and name not in _SAYS_NOTHING and not _is_default(name, value)
    }
    messages = request.get("messages")
    if isinstance(messages, list):
        told["messages"] = [_message(item) for item in messages]
    if request.get("stream") is True and request.get("stream_options") is not None:
        told["stream_options"] = request["stream_options"]
    return told


def _is_default(name: str, value: object) -> bool:
    # `logprobs: 0` asks a completion for the tokens' own probabilities, and 0 equals False.
    return name in _DEFAULTS and value == _DEFAULTS[name] and type(value) is type(_DEFAULTS[name])


def _number(value: object) -> object:
    """1.0 and 1 are one JSON number; deeper down, in a schema, they may be printed differently."""
    return int(value) if type(value) is float and value.is_integer() else value


def _message(message: object) -> object:
    if not isinstance(message, dict):
        return message
    told = dict(sorted(message.items()))
    if isinstance(content := told.get("content"), list):
        told["content"] = [dict(sorted(part.items())) if isinstance(part, dict) else part for part in content]
    return told


def _holds_its_media(request: dict[str, Any]) -> bool:
    """Whether every image and sound lies in the request: what an address leads to may change."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        return False
    return all(
        _is_inline(value)
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict)
        for name, value in part.items()
        if name.endswith("_url")
    )


def _is_inline(media: object) -> bool:
    url = media.get("url") if isinstance(media, dict) else media
    return isinstance(url, str) and url.startswith("data:")
