"""The JSON shapes of the OpenAPI document (JSON Schema 2020-12). Pure.

They say what the gateway and both engines read and write; engines take more fields, so all shapes are open.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_SWITCH: Schema = {"type": "boolean"}
_ANY: Schema = {}
_FREE: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A shape by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(*required: str, **fields: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": fields}


def _list(of: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": of, **limits}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_or_list(schema: Schema) -> Schema:
    return {"anyOf": [schema, _list(schema, minItems=1)]}


def _const(value: str) -> Schema:
    return {"type": "string", "const": value}


_MODEL: Schema = {"type": "string", "minLength": 1, "description": "A name from `/v1/models`, or an alias."}
_STREAM = _or_null(_SWITCH | {"description": "Server-sent events instead of one answer."})
_TOKENS: Schema = {"type": "integer", "minimum": 1}
_SAMPLING: dict[str, Schema] = {
    "temperature": _or_null({"type": "number", "minimum": 0, "maximum": 2}),
    "top_p": _or_null({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
}
_PARTS = _list(_object("type", type=_TEXT))
_CONTENT: Schema = {"anyOf": [_TEXT, _PARTS]}
_USAGE = _object(
    "prompt_tokens",
    "total_tokens",
    prompt_tokens=_COUNT,
    completion_tokens=_or_null(_COUNT),
    total_tokens=_COUNT,
)
_TEXTS: Schema = {"anyOf": [_TEXT, _list(_object("type", "text", type=_const("text"), text=_TEXT))]}
_CHOICE = _or_null({"anyOf": [{"enum": ["auto", "none", "required"]}, _object("type", type=_TEXT)]})
_CHAT_MESSAGE = _object("role", role=_TEXT, content=_or_null(_CONTENT), tool_calls=_or_null(_list(_FREE)))
_TOLD = _object("role", "content", role={"enum": ["user", "assistant", "system"]}, content=_CONTENT)
_TALK: dict[str, Schema] = {
    "messages": _list(ref("AnthropicTurn"), minItems=1),
    "system": _or_null(_TEXTS),
    "tools": _or_null(
        _list(_object("name", "input_schema", name=_TEXT, description=_TEXT, input_schema=_FREE))
    ),
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": _object(
        "error",
        error=_object("message", message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_ANY),
    ),
    "AnthropicError": _object(
        "type", "error", type=_const("error"), error=_object("type", "message", type=_TEXT, message=_TEXT)
    ),
    "ChatMessage": _CHAT_MESSAGE,
    "ChatRequest": _object(
        "model",
        "messages",
        model=_MODEL,
        messages=_list(ref("ChatMessage"), minItems=1),
        max_tokens=_or_null(_TOKENS),
        max_completion_tokens=_or_null(_TOKENS),
        stream=_STREAM,
        stream_options=_or_null(_object(include_usage=_SWITCH)),
        stop=_or_null({"anyOf": [_TEXT, _list(_TEXT)]}),
        seed=_or_null({"type": "integer"}),
        tools=_or_null(
            _list(_object("type", "function", type=_const("function"), function=_object("name", name=_TEXT)))
        ),
        tool_choice=_CHOICE,
        response_format=_or_null(_object("type", type=_TEXT)),
        **_SAMPLING,
    ),
    "ChatAnswer": _object(
        "id",
        "object",
        "choices",
        id=_TEXT,
        object=_const("chat.completion"),
        created=_COUNT,
        model=_TEXT,
        choices=_list(
            _object(
                "index", "message", index=_COUNT, message=ref("ChatMessage"), finish_reason=_or_null(_TEXT)
            )
        ),
        usage=_USAGE,
    ),
    "CompletionRequest": _object(
        "model",
        "prompt",
        model=_MODEL,
        prompt={"anyOf": [_TEXT, _list(_TEXT, minItems=1), _list(_COUNT, minItems=1)]},
        max_tokens=_or_null(_TOKENS),
        stream=_STREAM,
        stop=_or_null({"anyOf": [_TEXT, _list(_TEXT)]}),
        **_SAMPLING,
    ),
    "CompletionAnswer": _object(
        "id",
        "object",
        "choices",
        id=_TEXT,
        object=_const("text_completion"),
        created=_COUNT,
        model=_TEXT,
        choices=_list(_object("index", "text", index=_COUNT, text=_TEXT, finish_reason=_or_null(_TEXT))),
        usage=_USAGE,
    ),
    "ResponsesRequest": _object(
        "model",
        "input",
        model=_MODEL,
        input={"anyOf": [_TEXT, _list(_FREE, minItems=1)]},
        instructions=_or_null(_TEXT),
        max_output_tokens=_or_null(_TOKENS),
        stream=_STREAM,
        tools=_or_null(
            _list(_object("type", "name", type=_const("function"), name=_TEXT, parameters=_or_null(_FREE)))
        ),
        tool_choice=_CHOICE,
        text=_or_null(_FREE),
        reasoning=_or_null(_FREE),
        metadata=_or_null(_FREE),
        **_SAMPLING,
    ),
    "Response": _object(
        *("id", "object", "created_at", "status", "model", "output"),
        id=_TEXT,
        object=_const("response"),
        created_at=_COUNT,
        status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
        model=_TEXT,
        output=_list(
            _object("id", "type", id=_TEXT, type={"enum": ["message", "reasoning", "function_call"]})
        ),
        usage=_or_null(_object("input_tokens", "output_tokens", input_tokens=_COUNT, output_tokens=_COUNT)),
    ),
    "AnthropicTurn": _TOLD,
    "MessagesRequest": _object(
        "model",
        "max_tokens",
        "messages",
        model=_MODEL,
        max_tokens=_TOKENS,
        stream=_STREAM,
        stop_sequences=_or_null(_list(_TEXT)),
        top_k=_or_null(_COUNT),
        tool_choice=_or_null(_object("type", type={"enum": ["auto", "any", "tool", "none"]}, name=_TEXT)),
        thinking=_or_null(_object("type", type=_TEXT)),
        **_TALK,
        **_SAMPLING,
    ),
    "Message": _object(
        *("id", "type", "role", "model", "content", "stop_reason", "usage"),
        id=_TEXT,
        type=_const("message"),
        role=_const("assistant"),
        model=_TEXT,
        content=_list(_object("type", type={"enum": ["text", "thinking", "tool_use"]})),
        stop_reason=_or_null(_TEXT),
        stop_sequence=_or_null(_TEXT),
        usage=_object("input_tokens", "output_tokens", input_tokens=_COUNT, output_tokens=_COUNT),
    ),
    "CountTokensRequest": _object("model", "messages", model=_MODEL, **_TALK),
    "CountTokensAnswer": _object("input_tokens", input_tokens=_COUNT),
    "EmbeddingRequest": _object(
        "model",
        "input",
        model=_MODEL,
        input=_one_or_list(_TEXT),
        dimensions=_or_null(_TOKENS),
        encoding_format={"enum": ["float", "base64"]},
    ),
    "EmbeddingAnswer": _object(
        "object",
        "data",
        object=_const("list"),
        model=_TEXT,
        data=_list(_object("index", "embedding", index=_COUNT, embedding={"anyOf": [_list(_NUMBER), _TEXT]})),
        usage=_USAGE,
    ),
    "RerankRequest": _object(
        "model",
        "query",
        "documents",
        model=_MODEL,
        query=_TEXT,
        documents=_list(_TEXT, minItems=1),
        top_n=_or_null(_COUNT),
    ),
    "RerankAnswer": _object(
        "results",
        model=_TEXT,
        results=_list(_object("index", "relevance_score", index=_COUNT, relevance_score=_NUMBER)),
    ),
    "ScoreRequest": _object(
        "model", "text_1", "text_2", model=_MODEL, text_1=_TEXT, text_2=_one_or_list(_TEXT)
    ),
    "ScoreAnswer": _object(
        "data",
        object=_const("list"),
        model=_TEXT,
        data=_list(_object("index", "score", index=_COUNT, score=_NUMBER)),
    ),
    "TokenizeRequest": _object(
        "model",
        "prompt",
        model=_MODEL,
        prompt=_TEXT,
        add_special_tokens=_SWITCH,
        return_token_strs=_or_null(_SWITCH),
    ),
    "TokenizeAnswer": _object(
        "count", "tokens", count=_COUNT, tokens=_list(_COUNT), token_strs=_or_null(_list(_TEXT))
    ),
    "DetokenizeRequest": _object("model", "tokens", model=_MODEL, tokens=_list(_COUNT)),
    "DetokenizeAnswer": _object("prompt", prompt=_TEXT),
    "Model": _object("id", "object", id=_TEXT, object=_const("model"), created=_COUNT, owned_by=_TEXT),
    "ModelList": _object("object", "data", object=_const("list"), data=_list(ref("Model"))),
    "Health": _object("status", status={"enum": ["ok", "draining"]}, models=_COUNT),
    "Document": _object("openapi", "paths", openapi=_TEXT, paths=_FREE),
}
