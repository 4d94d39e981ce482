"""LiteLLM as a client: the gateway is one of its OpenAI-like providers, and an Anthropic one. Prints what it got."""

from __future__ import annotations

import json
from typing import Any

import litellm

HELLO: Any = [{"role": "user", "content": "Say hello."}]
litellm.suppress_debug_info = True  # it prints advice among the answers


def ask(model: str) -> list[str]:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 8, "temperature": 0, "timeout": 60}
    whole = litellm.completion(**asked)
    stream = litellm.completion(**asked, stream=True)
    return [
        whole.choices[0].message.content,
        "".join(chunk.choices[0].delta.content or "" for chunk in stream),
    ]


refused = ""
try:
    litellm.completion(model="openai/no-such-model", messages=HELLO, num_retries=0)
except litellm.NotFoundError as error:
    refused = str(error)
print(
    json.dumps(
        {
            "openai": ask("openai/tiny"),
            "anthropic": ask("anthropic/tiny"),
            "dimensions": [
                len(each["embedding"])
                for each in litellm.embedding(model="openai/vectors", input=["a plinth", "a base"]).data
            ],
            "refused": refused,
        }
    )
)
