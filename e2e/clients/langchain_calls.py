"""LangChain's chat models and embeddings, configured by the usual variables. Prints what it got."""

from __future__ import annotations

import asyncio
import json

from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

HELLO = [("system", "Be brief."), ("human", "Say hello.")]
chat = ChatOpenAI(model="tiny", max_tokens=8, temperature=0, max_retries=0, timeout=60, stream_usage=True)
messages = ChatAnthropic(model="tiny", max_tokens=8, temperature=0, max_retries=0, timeout=60)
# It would count tokens by a tokenizer that it downloads.
vectors = OpenAIEmbeddings(model="vectors", check_embedding_ctx_length=False, max_retries=0)


async def stream_both() -> list[str]:
    return ["".join([piece.text async for piece in model.astream(HELLO)]) for model in (chat, messages)]


whole = [model.invoke(HELLO) for model in (chat, messages)]
print(
    json.dumps(
        {
            "whole": [each.text for each in whole],
            "streamed": asyncio.run(stream_both()),
            "tokens": [each.usage_metadata["output_tokens"] for each in whole],
            "batch": [each.text for each in chat.batch([HELLO, HELLO])],
            "dimensions": [len(each) for each in vectors.embed_documents(["a plinth", "a base"])],
        }
    )
)
