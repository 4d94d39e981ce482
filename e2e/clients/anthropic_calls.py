"""Anthropic's Python package; where the gateway is, and the key, it has from its usual variables. Prints what it got."""

from __future__ import annotations

import json
from typing import Any

import anthropic

HELLO: Any = [{"role": "user", "content": "Say hello."}]
client = anthropic.Anthropic(max_retries=0, timeout=60)
asked: Any = {"model": "tiny", "max_tokens": 8, "system": "Be brief.", "messages": HELLO}
asked["extra_body"] = {"temperature": 0}  # of the API, but no longer of the package
whole = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
counted = client.messages.count_tokens(model="tiny", messages=HELLO)
refused: dict[str, Any] = {}
try:
    client.messages.create(model="no-such-model", max_tokens=1, messages=HELLO)
except anthropic.NotFoundError as error:
    refused = {"status": error.status_code, "body": error.body, "request": error.request_id}
print(
    json.dumps(
        {
            "message": [whole.content[0].text, "".join(pieces), final.content[0].text],
            "tokens": [
                [
                    each.usage.input_tokens + (each.usage.cache_read_input_tokens or 0),
                    each.usage.output_tokens,
                    each.stop_reason,
                ]
                for each in (whole, final)
            ],
            "counted": counted.input_tokens,
            "refused": refused,
        }
    )
)
