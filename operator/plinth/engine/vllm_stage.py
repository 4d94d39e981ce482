"""A further node's part of a vLLM engine: `python -m plinth.engine.vllm_stage`, kept by `plinth.engine.further_nodes`.

vLLM's own executor of several nodes is used as `vllm serve --headless` uses it (vllm/entrypoints/cli/serve.py, 0.25.1:
`run_headless`): every node starts the workers of its ranks, and all meet at rank 0's address. What to do comes as one
line of JSON on stdin; when stdin ends, the actor has ended, and so does this process at once, however it ended.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass

import msgspec

from plinth.domain.fleet import EngineSpec
from plinth.engine.place import NodeRank
from plinth.engine.seam import EngineError, LocalModel
from plinth.engine.vllm_args import parse_arguments
from plinth.engine.vllm_environment import prepare_environment


@dataclass(frozen=True, kw_only=True)
class StageOrder:
    """All that a part of an engine is told."""

    spec: EngineSpec
    model: LocalModel
    rank: NodeRank
    address: str
    """Of this node, where the others reach it."""


def encode_order(order: StageOrder) -> bytes:
    """The line that `main` reads."""
    return msgspec.json.encode(order, enc_hook=str) + b"\n"


def decode_order(line: bytes) -> StageOrder:
    """What `encode_order` wrote."""
    return msgspec.json.decode(
        line, type=StageOrder, dec_hook=lambda path, text: path(text)
    )  # the only other type in it


def main() -> None:
    """Be the workers of this node until one of them ends."""
    order = decode_order(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, name="end-with-actor", daemon=True).start()
    prepare_environment(order.spec, order.address)
    try:
        _work(order)
    except EngineError as error:
        sys.exit(str(error))
    sys.exit("a worker of vLLM ended")


def _work(order: StageOrder) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - after the environment is set
    from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415 - the same
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor  # noqa: PLC0415 - the same

    from plinth.engine.vllm_core import adapt_workers  # noqa: PLC0415 - imports vLLM

    args = parse_arguments(order.spec, order.model, order.rank)
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
        usage_context=UsageContext.OPENAI_API_SERVER, headless=True
    )
    adapt_workers()
    executor = MultiprocExecutor(config, monitor_workers=False)
    executor.start_worker_monitor(inline=True)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
