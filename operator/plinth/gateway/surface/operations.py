"""The one table of what clients can call: the OpenAPI document and the page to try it are made of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
TEXT = "text/plain"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path."""

    name: str
    """Unique; clients made from the document call their function so."""
    path: str
    summary: str
    tag: str
    method: str = "post"
    task: str = ""
    """`Generate`, `Embed` or `Rerank`: what a model must do to be asked; empty where no model is."""
    takes: str = ""
    """Schema of the body; empty for none."""
    gives: str = ""
    """Schema of the answer with status 200; empty for text."""
    media: str = JSON
    streams: bool = False
    """`stream: true` turns the answer into server-sent events."""
    error: str = "Error"
    """Schema of every other answer; empty for text."""
    needs_key: bool = True
    example: dict[str, Any] | None = None
    """A body without `model`."""


_HELLO: Final = [{"role": "user", "content": "Say hello."}]
_TOKENS = "Tokens"


def _about(name: str, path: str, summary: str, *, gives: str = "", media: str = JSON) -> Operation:
    """What is asked of the gateway itself, by anybody."""
    return Operation(
        name=name,
        path=path,
        summary=summary,
        tag="About",
        method="get",
        gives=gives,
        media=media,
        error="",
        needs_key=False,
    )


OPERATIONS: Final = (
    Operation(
        name="createChatCompletion",
        path="/v1/chat/completions",
        summary="Answer a conversation",
        tag="Chat",
        task="Generate",
        takes="ChatRequest",
        gives="ChatAnswer",
        streams=True,
        example={"messages": _HELLO, "max_tokens": 64},
    ),
    Operation(
        name="createResponse",
        path="/v1/responses",
        summary="Answer, in the shape of OpenAI's Responses API; nothing is kept",
        tag="Chat",
        task="Generate",
        takes="ResponsesRequest",
        gives="Response",
        streams=True,
        example={"input": "Say hello.", "max_output_tokens": 64},
    ),
    Operation(
        name="createMessage",
        path="/v1/messages",
        summary="Answer, in the shape of Anthropic's Messages API",
        tag="Chat",
        task="Generate",
        takes="MessagesRequest",
        gives="Message",
        streams=True,
        error="AnthropicError",
        example={"messages": _HELLO, "max_tokens": 64},
    ),
    Operation(
        name="countMessageTokens",
        path="/v1/messages/count_tokens",
        summary="Count the tokens of a Messages request",
        tag=_TOKENS,
        task="Generate",
        takes="CountTokensRequest",
        gives="CountTokensAnswer",
        error="AnthropicError",
        example={"messages": _HELLO},
    ),
    Operation(
        name="createCompletion",
        path="/v1/completions",
        summary="Continue a text",
        tag="Chat",
        task="Generate",
        takes="CompletionRequest",
        gives="CompletionAnswer",
        streams=True,
        example={"prompt": "Once upon a time", "max_tokens": 64},
    ),
    Operation(
        name="createEmbedding",
        path="/v1/embeddings",
        summary="Texts as vectors",
        tag="Embeddings and ranking",
        task="Embed",
        takes="EmbeddingRequest",
        gives="EmbeddingAnswer",
        example={"input": ["hello", "goodbye"]},
    ),
    Operation(
        name="rerank",
        path="/v1/rerank",
        summary="Documents by how well they answer a query",
        tag="Embeddings and ranking",
        task="Rerank",
        takes="RerankRequest",
        gives="RerankAnswer",
        example={"query": "a greeting", "documents": ["hello", "a stone"]},
    ),
    Operation(
        name="score",
        path="/v1/score",
        summary="How well texts fit each other",
        tag="Embeddings and ranking",
        task="Rerank",
        takes="ScoreRequest",
        gives="ScoreAnswer",
        example={"text_1": "a greeting", "text_2": ["hello", "a stone"]},
    ),
    Operation(
        name="tokenize",
        path="/tokenize",
        summary="A text as the model's tokens",
        tag=_TOKENS,
        task="Generate",
        takes="TokenizeRequest",
        gives="TokenizeAnswer",
        example={"prompt": "hello"},
    ),
    Operation(
        name="detokenize",
        path="/detokenize",
        summary="A model's tokens as text",
        tag=_TOKENS,
        task="Generate",
        takes="DetokenizeRequest",
        gives="DetokenizeAnswer",
        example={"tokens": [1, 2, 3]},
    ),
    Operation(
        name="listModels",
        path="/v1/models",
        summary="Models that can be asked for",
        tag="Models",
        method="get",
        gives="ModelList",
    ),
    Operation(
        name="retrieveModel",
        path="/v1/models/{model}",
        summary="One model",
        tag="Models",
        method="get",
        gives="Model",
    ),
    _about("health", "/health", "Whether the gateway works, and for how many models", gives="Health"),
    _about("ready", "/readyz", "Whether new connections should come here", media=TEXT),
    _about("live", "/livez", "Whether the process answers", media=TEXT),
    Operation(
        name="metrics",
        path="/metrics",
        summary="Figures for Prometheus",
        tag="About",
        method="get",
        media=TEXT,
    ),
    _about(
        "document", "/openapi.json", "This document, with the models that the key may ask", gives="Document"
    ),
    _about("page", "/docs", "A page to try the API", media="text/html"),
)
