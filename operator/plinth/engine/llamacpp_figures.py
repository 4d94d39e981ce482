"""What llama.cpp says of its memory while it loads: the sizes of its buffers, read from its log.

It tells them nowhere else. The lines, as of the pinned xllamacpp (llama.cpp's src/llama-model.cpp, llama-kv-cache.cpp and
llama-context.cpp), one for each device:

    load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
    llama_context: n_ctx                 = 2048
    llama_context:        CPU  output buffer size =     0.38 MiB
    llama_kv_cache:        CPU KV buffer size =    45.00 MiB
    sched_reserve:        CPU compute buffer size =    15.64 MiB
"""

from __future__ import annotations

import re

from plinth.domain.figures import EngineFigures, MemoryFigures

_MIB = 2**20
_BUFFER = re.compile(r" (model|KV|RS|output|compute) buffer size = +([\d.]+) MiB")
_CONTEXT = re.compile(r"llama_context: n_ctx += (\d+)")


def read_figures(log: str) -> EngineFigures | None:
    """The sums of its buffers, to a hundredth of a MiB; None where the log holds no load.

    RS is the state of recurrent layers, which like KV is kept for each request.
    """
    sizes: dict[str, int] = {}
    for kind, mebibytes in _BUFFER.findall(log):
        sizes[kind] = sizes.get(kind, 0) + round(float(mebibytes) * _MIB)
    context = _CONTEXT.findall(log)
    if "model" not in sizes or not context:
        return None
    kv_bytes = sizes.get("KV", 0) + sizes.get("RS", 0)
    memory = MemoryFigures(
        weights_bytes=sizes["model"],
        kv_bytes=kv_bytes,
        kv_tokens=int(context[-1]) if kv_bytes else 0,
        overhead_bytes=sizes.get("output", 0) + sizes.get("compute", 0),
    )
    return EngineFigures(memory=memory)
