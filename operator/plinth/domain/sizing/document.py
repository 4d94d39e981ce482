"""A choice as the plan's JSON: the same names and units wherever a plan is shown."""

from __future__ import annotations

from plinth.domain.sizing.choice import ShapeChoice


def make_document(choice: ShapeChoice) -> dict[str, object]:
    """Integers, bytes of one accelerator, money as decimal strings."""
    shape, memory, predicted = choice.shape, choice.memory, choice.predicted
    return {
        "shape": {
            "tensorParallel": shape.tensor,
            "pipelineParallel": shape.pipeline,
            "expertParallel": shape.expert,
            "dataParallel": shape.data,
        },
        "memory": {
            "weightsBytesPerGpu": memory.weights_bytes,
            "adapterBytesPerGpu": memory.adapter_bytes,
            "kvBytesPerGpu": memory.kv_bytes,
            "kvTokens": memory.kv_tokens,
            "overheadBytesPerGpu": memory.overhead_bytes,
        },
        "predicted": {
            "ttftP50Milliseconds": predicted.ttft_p50_milliseconds,
            "ttftP99Milliseconds": predicted.ttft_p99_milliseconds,
            "tpotMicroseconds": predicted.tpot_microseconds,
            "tokensPerSecond": predicted.tokens_per_second,
            "costPerMillionTokens": predicted.cost_per_million_tokens,
        },
        "reasons": list(choice.reasons),
        "rejected": [{"shape": str(each.shape), "reason": each.reason} for each in choice.rejected],
    }
