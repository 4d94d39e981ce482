"""Runs inside vLLM's engine core and worker processes, sets two things right there, and has workers tell of themselves.

A core ends when the replica that started it has ended, however it ended (vLLM's workers already end with their
core). And torch's rendezvous store, which listens on all interfaces, listens where its clients look for it.

`plinth.engine.vllm` makes `run_engine_core` the target of the core's process, that makes `run_worker` the target
of the workers'. A new process imports vLLM afresh, so the originals are what is called here.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import threading
from multiprocessing.connection import wait
from typing import Any

import torch.distributed
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.executor.multiproc_executor import WorkerProc
from vllm.v1.worker.worker_base import WorkerBase, WorkerWrapperBase

from plinth.engine.vllm_figures import TELL, note_weights, tell_figures

_LOOPBACK = frozenset({"127.0.0.1", "localhost"})
_BACKLOG = 1024
_RENDEZVOUS = importlib.import_module("torch.distributed.rendezvous")
"""The module; `torch.distributed.rendezvous` as an attribute is a function."""


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """Watch the parent from a thread, and be the engine core."""
    threading.Thread(target=_end_with_parent, name="end-with-replica", daemon=True).start()
    _keep_stores_on_loopback()
    _have_workers_tell()
    WorkerProc.worker_main = staticmethod(run_worker)
    EngineCoreProc.run_engine_core(*args, **kwargs)


def run_worker(*args: Any, **kwargs: Any) -> None:
    """Be a worker."""
    _keep_stores_on_loopback()
    _have_workers_tell()
    WorkerProc.worker_main(*args, **kwargs)


def _have_workers_tell() -> None:
    """A lone worker lives in the core's own process, so this is done there too."""
    setattr(WorkerBase, TELL, tell_figures)
    init_device = WorkerWrapperBase.init_device

    def init_and_note(wrapper: Any) -> None:
        init_device(wrapper)
        _note_weights_of_models()

    WorkerWrapperBase.init_device = init_and_note


def _note_weights_of_models() -> None:
    """Between a model's load and its packing. Not earlier: on CPUs vLLM's worker must be the first to import torch's parts."""
    loader = importlib.import_module("vllm.model_executor.model_loader.base_loader")
    process = loader.process_weights_after_loading

    def note_and_process(model: Any, *args: Any) -> None:
        note_weights(model)
        process(model, *args)

    vars(loader)["process_weights_after_loading"] = note_and_process


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _keep_stores_on_loopback() -> None:
    vars(_RENDEZVOUS)["TCPStore"] = loopback_store


def loopback_store(*, host_name: str, port: int, is_master: bool, **options: Any) -> Any:
    """A TCPStore; its server gets a socket that listens on loopback, if that is where it is asked for."""
    if is_master and host_name in _LOOPBACK:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(_BACKLOG)
        options["master_listen_fd"] = listening.detach()
    return torch.distributed.TCPStore(host_name=host_name, port=port, is_master=is_master, **options)
