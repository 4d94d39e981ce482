"""OpenAI's Python package; where the gateway is, and the key, it has from its usual variables. Prints what it got."""

from __future__ import annotations

import json
from typing import Any

import openai

HELLO: Any = [{"role": "user", "content": "Say hello."}]
client = openai.OpenAI(max_retries=0, timeout=60)
whole = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, temperature=0)
stream = client.chat.completions.create(
    model="tiny",
    messages=HELLO,
    max_tokens=8,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
chunks = list(stream)
response = client.responses.create(model="tiny", input="Say hello.", max_output_tokens=8, temperature=0)
events: Any = list(
    client.responses.create(model="tiny", input="Say hello.", max_output_tokens=8, temperature=0, stream=True)
)
deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
final = events[-1].response
text = client.completions.create(model="tiny", prompt="One, two,", max_tokens=4, temperature=0)
texts = list(
    client.completions.create(model="tiny", prompt="One, two,", max_tokens=4, temperature=0, stream=True)
)
vectors = client.embeddings.create(model="vectors", input=["a plinth", "a base"])
refused: dict[str, Any] = {}
try:
    client.with_options(api_key="sk-plinth-nobodys").chat.completions.create(model="tiny", messages=HELLO)
except openai.AuthenticationError as error:
    refused = {"status": error.status_code, "code": error.code, "request": error.request_id}
print(
    json.dumps(
        {
            "chat": [
                whole.choices[0].message.content,
                "".join(each.choices[0].delta.content or "" for each in chunks if each.choices),
            ],
            "chat_tokens": [
                each.usage.completion_tokens for each in (whole, chunks[-1]) if each.usage is not None
            ],
            "response": [response.output_text, "".join(deltas), final.output_text],
            "why": [each.incomplete_details.reason for each in (response, final)],
            "completion": [text.choices[0].text, "".join(each.choices[0].text for each in texts)],
            "dimensions": [len(each.embedding) for each in vectors.data],
            "models": sorted(each.id for each in client.models.list()),
            "refused": refused,
        }
    )
)
