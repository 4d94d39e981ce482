"""Runs inside vLLM's engine core and worker processes, sets two things right there, and has workers tell of themselves.

Each ends when the process that started it has ended, however it ended: of vLLM's own, only the workers of an engine on
one node do. And torch's rendezvous store, which listens on all interfaces, listens where its clients look for it.

`plinth.engine.vllm` makes `run_engine_core` the target of the core's process and `run_coordinator` that of the
data-parallel coordinator's; the core, and `plinth.engine.vllm_stage` on further nodes, make `run_worker` the target of
the workers'. A new process imports vLLM afresh, so the originals are what is called here.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from typing import Any

import torch.distributed
from vllm.v1.engine.coordinator import DPCoordinatorProc
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.executor.multiproc_executor import WorkerProc
from vllm.v1.worker.worker_base import WorkerBase, WorkerWrapperBase

from plinth.engine.network import listening
from plinth.engine.vllm_devices import TELL_DEVICE, tell_device
from plinth.engine.vllm_figures import TELL, note_weights, tell_figures

_BACKLOG = 1024
_RENDEZVOUS = importlib.import_module("torch.distributed.rendezvous")
"""The module; `torch.distributed.rendezvous` as an attribute is a function."""


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """Watch the parent from a thread, and be the engine core."""
    _watch_parent()
    adapt_workers()
    EngineCoreProc.run_engine_core(*args, **kwargs)


def run_coordinator(*args: Any, **kwargs: Any) -> None:
    """Watch the parent, and be what spreads requests over data-parallel ranks."""
    _watch_parent()
    DPCoordinatorProc.run_coordinator(*args, **kwargs)


def run_worker(*args: Any, **kwargs: Any) -> None:
    """Watch the parent, and be a worker."""
    _watch_parent()
    _keep_stores_to_themselves()
    _have_workers_tell()
    WorkerProc.worker_main(*args, **kwargs)


def adapt_workers() -> None:
    """Before an executor is made in this process. A lone worker lives in it too."""
    _keep_stores_to_themselves()
    _have_workers_tell()
    WorkerProc.worker_main = staticmethod(run_worker)


def _have_workers_tell() -> None:
    setattr(WorkerBase, TELL, tell_figures)
    setattr(WorkerBase, TELL_DEVICE, tell_device)
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


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _keep_stores_to_themselves() -> None:
    vars(_RENDEZVOUS)["TCPStore"] = store_at_its_address


def store_at_its_address(*, host_name: str, port: int, is_master: bool, **options: Any) -> Any:
    """A TCPStore; its server gets a socket that listens where it is asked for, and nowhere else."""
    if is_master:
        options["master_listen_fd"] = listening(host_name, port, _BACKLOG).detach()
    return torch.distributed.TCPStore(host_name=host_name, port=port, is_master=is_master, **options)
