"""Score, tokenize and detokenize: one shape for clients, said as each engine takes it. Pure.

The shape is vLLM's (0.25: `entrypoints/serve/tokenize/protocol.py`, `entrypoints/pooling/scoring/protocol.py`),
whose replicas get these requests as they came. llama.cpp's server tokenizes by other field names and scores through
its rerank endpoint, so there a request is translated.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plinth.gateway.protocol.errors import Refusal, error_body
from plinth.gateway.protocol.unreadable import UNREADABLE
from plinth.gateway.surface.chat import TranslationError
from plinth.gateway.surface.reading import FieldError, Fields, copy_fields, expect, maybe, need, read_object

LLAMA_CPP = "LlamaCpp"
_MOST_TOKEN = 2**31 - 1
"""What llama.cpp reads; which of them the model has, it says itself."""
_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


class NativeExchange:
    """One request to llama.cpp; see `Exchange`."""

    __slots__ = ("_kind", "body", "path")

    def __init__(self, kind: str, path: bytes, body: bytes) -> None:
        self._kind = kind
        self.path = path
        self.body = body

    def answer(self, body: bytes) -> bytes:
        """The answer in vLLM's shape."""
        try:
            found = msgspec.json.decode(body)
            return msgspec.json.encode(_ANSWERS[self._kind](found))
        except (*UNREADABLE, KeyError, TypeError, ValueError) as error:
            raise TranslationError(f"the replica's answer has an unknown shape: {error}") from error

    def refusal_body(self, refusal: Refusal, _request_id: str) -> bytes:
        """An error: OpenAI's shape."""
        return error_body(refusal)

    def stream(self) -> None:
        """There are no streams."""


def translate_native(path: str, body: bytes, *, model: str, engine: str) -> NativeExchange | Refusal | None:
    """The exchange for an engine that needs one; None for a request that goes on as it came."""
    if engine != LLAMA_CPP or path not in _REQUESTS:
        return None
    fields = read_object(body)
    if isinstance(fields, Refusal):
        return fields
    try:
        asked = _REQUESTS[path](fields)
    except FieldError as error:
        return error.refusal()
    return NativeExchange(path, _PATHS[path], msgspec.json.encode({"model": model} | asked))


def _tokenize(fields: Fields) -> Fields:
    if "prompt" not in fields and "messages" in fields:
        raise FieldError("messages", "cannot be tokenized by this model's engine; give it a `prompt`")
    asked = {
        "content": need(fields, "prompt", str),
        "add_special": expect(fields.get("add_special_tokens", True), bool, "add_special_tokens"),
        "parse_special": True,
    }
    if maybe(fields, "return_token_strs", bool):
        asked["with_pieces"] = True
    return asked


def _tokenized(found: Any) -> Fields:
    tokens = found["tokens"]
    if tokens and isinstance(tokens[0], dict):
        return {
            "count": len(tokens),
            "tokens": [token["id"] for token in tokens],
            # A piece that is no text by itself comes as its bytes.
            "token_strs": [_piece(token["piece"]) for token in tokens],
        }
    return {"count": len(tokens), "tokens": tokens}


def _piece(piece: str | list[int]) -> str:
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", "replace")


def _detokenize(fields: Fields) -> Fields:
    tokens = [expect(token, int, f"tokens[{at}]") for at, token in enumerate(need(fields, "tokens", list))]
    for at, token in enumerate(tokens):
        if not 0 <= token <= _MOST_TOKEN:
            raise FieldError(f"tokens[{at}]", f"must be a token: 0 to {_MOST_TOKEN}")
    return {"tokens": tokens}


def _detokenized(found: Any) -> Fields:
    return {"prompt": found["content"]}


def _score(fields: Fields) -> Fields:
    """One query against many texts is what a rerank computes."""
    for one, many in _PAIRS:
        if one in fields and many in fields:
            break
    else:
        raise FieldError("text_1", "and `text_2` are needed")
    query, texts = fields[one], fields[many]
    if isinstance(query, list) and len(query) == 1:
        query = query[0]
    if isinstance(query, list):
        raise FieldError(one, "must be one text: this model's engine scores no lists of pairs")
    texts = [texts] if isinstance(texts, str) else expect(texts, list, many)
    asked: Fields = {
        "query": expect(query, str, one),
        "documents": [expect(text, str, f"{many}[{at}]") for at, text in enumerate(texts)],
    }
    copy_fields(fields, asked, ("user",))
    return asked


def _scored(found: Any) -> Fields:
    results = sorted(found["results"], key=lambda result: result["index"])
    document: Fields = {
        "object": "list",
        "model": found.get("model", ""),
        "data": [
            {"index": result["index"], "object": "score", "score": result["relevance_score"]}
            for result in results
        ],
    }
    copy_fields(found, document, ("id", "created", "usage"))
    return document


_REQUESTS = {"/tokenize": _tokenize, "/detokenize": _detokenize, "/v1/score": _score}
_ANSWERS = {"/tokenize": _tokenized, "/detokenize": _detokenized, "/v1/score": _scored}
ENGINES_DIFFER = frozenset(_REQUESTS)
"""Paths on which what a replica is asked depends on its engine."""
_PATHS = {"/tokenize": b"/tokenize", "/detokenize": b"/detokenize", "/v1/score": b"/v1/rerank"}
