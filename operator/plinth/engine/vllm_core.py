"""Runs inside vLLM's engine core process: ends it when the replica that started it has ended, however it ended.

Stands in for `EngineCoreProc.run_engine_core` as the target of the core's process (see `plinth.engine.vllm`).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from typing import Any

from vllm.v1.engine.core import EngineCoreProc


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """Watch the parent from a thread, and be the engine core."""
    threading.Thread(target=_end_with_parent, name="end-with-replica", daemon=True).start()
    EngineCoreProc.run_engine_core(*args, **kwargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
