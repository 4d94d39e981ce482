"""What a vLLM engine says of itself while it starts, read from its log: memory, KV cache, graphs, seconds.

The sentences are those of vLLM 0.25.1: `v1/worker/gpu_worker.py`, `v1/worker/gpu_model_runner.py`,
`v1/worker/gpu/model_runner.py`, `v1/core/kv_cache_utils.py`, `v1/engine/core.py`, `compilation/monitor.py`. The worker
says most of it at the level DEBUG, which `LOGGING` asks for there alone: elsewhere it would slow the engine down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LOGGING: Mapping[str, object] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {
            "class": "vllm.logging_utils.NewLineFormatter",
            "format": "%(levelname)s %(asctime)s [%(fileinfo)s:%(lineno)d] %(message)s",
            "datefmt": "%m-%d %H:%M:%S",
        }
    },
    "handlers": {
        "out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}
    },
    "loggers": {
        "vllm": {"handlers": ["out"], "level": "INFO", "propagate": False},
        "vllm.v1.worker.gpu_worker": {"level": "DEBUG"},
    },
}
"""For `VLLM_LOGGING_CONFIG_PATH`, as JSON."""

_N = r"(-?[\d.,]+)"
_FIGURES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "weights_gib": rf"Model loading took {_N} GiB",
        "loading_seconds": rf"Model loading took {_N} GiB(?: memory)? and {_N} seconds",
        "free_before_gib": rf"Initial free memory: {_N} GiB; Requested memory",
        "requested_gib": rf"Initial free memory: .*\(util\), {_N} GiB",
        "total_gib": rf"Free memory on device \({_N}/{_N} GiB\) on startup",
        "free_after_profiling_gib": rf"Free memory after profiling: {_N} GiB",
        "profiling_seconds": rf"Memory profiling takes {_N} seconds",
        "not_kv_gib": rf"Total non KV cache memory: {_N}GiB",
        "activation_gib": rf"torch peak memory increase: {_N}GiB",
        "not_torch_gib": rf"non-torch forward increase memory: {_N}GiB",
        "kv_gib": rf"Available KV cache memory: {_N} GiB",
        "kv_tokens": rf"KV cache size: {_N} tokens",
        "full_contexts": rf"Maximum concurrency for .* tokens per request: {_N}x",
        "graphs_gib": rf"CUDA graph pool memory: {_N} GiB \(actual\)",
        "graphs_estimated_gib": rf"CUDA graph pool memory: .*\(actual\), {_N} GiB \(estimated\)",
        "graphs_seconds": rf"Graph capturing finished in {_N} secs",
        "graphs_captured_gib": rf"Graph capturing finished in .* secs, took {_N} GiB",
        "kv_bytes_that_fit_requested": rf"`--kv-cache-memory={_N}` \(.*\) to fit into requested memory",
        "compile_seconds": rf"torch\.compile took {_N} s in total",
        "init_seconds": rf"init engine \(profile, create kv cache, warmup model\) took {_N} s",
        "max_batched_tokens": rf"Chunked prefill is enabled with max_num_batched_tokens={_N}",
    }.items()
}


def read_figures(log: str) -> dict[str, list[float]]:
    """Every figure that the log holds, one value for each worker that said it, in the order said.

    GiB are 2**30 bytes, rounded by vLLM to two places; `kv_tokens` is of the engine, all others of one worker. A log
    of several starts is read from the last one on.

    >>> read_figures("(Worker pid=7) INFO Model loading took 29.73 GiB memory and 8.5 seconds")
    {'weights_gib': [29.73], 'loading_seconds': [8.5]}
    """
    last = log[log.rfind("Initializing a V1 LLM engine") :] if "Initializing a V1 LLM engine" in log else log
    found = {}
    for name, pattern in _FIGURES.items():
        values = [_number(match) for match in pattern.finditer(last)]
        if values:
            found[name] = values
    return found


def _number(match: re.Match[str]) -> float:
    return float(match[match.re.groups].replace(",", "").rstrip("."))


_LOCAL: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"\b(\w+)://[\w.\[\]:-]+"), r"\1://HOST"),
    (re.compile(r" pid=\d+\)"), ")"),
    # From the root on, of several parts: `KV/token`, `1.5/139.8 GiB` and a request's `/health` are none.
    (re.compile(r"(?<![\w.:/])/(?:[\w.@+=,~-]+/)+(?=[\w.])"), ""),
)


def without_machine(text: str) -> str:
    """Text of a log without what belongs to the machine and not to the engine: folders, addresses, process ids.

    >>> without_machine("(Worker pid=7) model='/home/me/models/toy', tcp://10.0.0.2:51087, 1.5/139.8 GiB")
    "(Worker) model='toy', tcp://HOST, 1.5/139.8 GiB"
    """
    for pattern, shown in _LOCAL:
        text = pattern.sub(shown, text)
    return text


def read_lines(log: str) -> list[str]:
    """The lines that the figures come from and those that name what was chosen: kernels, backends, the configuration."""
    telling = re.compile(
        r"backend|kernel|Initializing a V1|Model Runner|capture|quantiz|attention|MoE", re.IGNORECASE
    )
    return [
        without_machine(line)
        for line in log.splitlines()
        if telling.search(line) or any(pattern.search(line) for pattern in _FIGURES.values())
    ]
