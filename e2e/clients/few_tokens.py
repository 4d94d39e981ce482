"""Has schemathesis ask models that there are, and for few tokens: what it tries is the shape of requests and answers.

Names of models that there are not go to the operations for which the test has none.
"""

from __future__ import annotations

from typing import Any

import schemathesis

FEW = 2
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
"""What llama.cpp does not understand there it takes for no limit, so nothing else is tried as one."""
MESSAGES = "/v1/messages"
MODELS = dict.fromkeys(
    [*LIMITS, MESSAGES, f"{MESSAGES}/count_tokens", "/tokenize", "/detokenize"], "tiny"
) | {"/v1/embeddings": "vectors"}


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    body, path = case.body, case.operation.path
    if not isinstance(body, dict):
        return
    if path in MODELS and isinstance(body.get("model"), str):
        body["model"] = MODELS[path]
    if path in LIMITS:
        body.pop("max_completion_tokens", None)
        body[LIMITS[path]] = FEW
    elif path == MESSAGES and isinstance(body.get("max_tokens"), int):
        body["max_tokens"] = min(body["max_tokens"], FEW)
