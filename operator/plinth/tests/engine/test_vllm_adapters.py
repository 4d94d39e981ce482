"""A real LoRA adapter on real vLLM, on the CPU: asked for by its own name, beside the model it adapts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from plinth.tests.engine.lora_files import write_adapter
from plinth.tests.engine.serving import SECRET, Served
from plinth.tests.engine.test_vllm import START_SECONDS, replica

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio, pytest.mark.timeout(900)]

ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 12,
    "temperature": 0,
}


async def test_an_adapter_answers_by_its_own_name_and_the_model_by_its_own(tmp_path: Path) -> None:
    adapters = {
        "law": f"file://{write_adapter(tmp_path / 'law', rank=8, seed=1)}",
        "med": f"file://{write_adapter(tmp_path / 'med', rank=24, seed=2)}",
    }
    headers = {"authorization": f"Bearer {SECRET}"}
    with replica(tmp_path, {"adapters": adapters, "adapter_rank": 32}) as (_, base):
        async with aiohttp.ClientSession(headers=headers) as client:
            served = Served(base, client)
            await served.until("Ready", seconds=START_SECONDS)
            texts = {}
            for name in ("chat", "chat:law", "chat:med", "team/chat"):
                status, answer = await served.post("/v1/chat/completions", ASKED | {"model": name})
                # The engine answers by the first of the model's names, whichever was asked.
                assert (status, answer["model"]) == (200, "chat" if name == "team/chat" else name)
                texts[name] = answer["choices"][0]["message"]["content"]
            assert texts["chat"] == texts["team/chat"]
            assert len(set(texts.values())) == 3
            status, _ = await served.post("/v1/chat/completions", ASKED | {"model": "chat:tax"})
            assert status == 404
