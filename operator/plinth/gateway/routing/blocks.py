"""Names for the blocks of a prompt, so that two prompts with a common start have their first names in common. Pure.

The first step of routing a request. Engines keep the KV cache by blocks of tokens and find a block by a hash over
it and all before it (vLLM: 16 tokens). No tokenizer is needed to follow that: bytes that are equal from the start
become tokens that are equal from the start, but for one or two at the end. So a name is a running CRC-32 over the
raw JSON of what comes first in the prompt. It is the same in every process, takes half a microsecond a KiB, and a collision
(about 1 in 100,000 for a full memory) costs one request its best place, never its answer.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

BLOCK_BYTES: Final = 1024
"""About 256 tokens: 17 ms of reading at 15,000 a second, finer than which routing need not see."""
BLOCK_TOKENS: Final = 256
MOST_BLOCKS: Final = 1024
"""Of one prompt: what a longer one shares beyond the first MiB is read at the replica that holds the start."""

Bytes = bytes | memoryview


def blocks_of_bytes(prompt: Bytes, *, before: Bytes = b"", adapter: str = "") -> list[int]:
    """Names of the whole blocks of a prompt's raw JSON (`messages`, `prompt` or `input`).

    `before` is what the chat template puts ahead of it wherever the client wrote it: `tools`, and the
    `cache_salt` by which vLLM keeps callers' caches apart. An adapter has keys and values of its own.
    """
    names: list[int] = []
    if len(prompt) < BLOCK_BYTES:
        return names
    name = crc32(before, crc32(adapter.encode()) if adapter else 0)
    view = memoryview(prompt)
    end = min(len(view), MOST_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1
    for start in range(0, end, BLOCK_BYTES):
        name = crc32(view[start : start + BLOCK_BYTES], name)
        names.append(name)
    return names
