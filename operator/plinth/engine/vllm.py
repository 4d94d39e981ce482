"""The vLLM engine: AsyncLLM and vLLM's own OpenAI app inside the replica, so that a token takes one hop.

vLLM is built up as `vllm serve` does it (vllm/entrypoints/openai/api_server.py, 0.25.1: `run_server_worker`,
`build_and_serve`), only without a server of its own: Ray Serve's answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import EngineSpec, ModelFormat, SeenDevice
from plinth.engine.accelerators import maker_here
from plinth.engine.conversion import converted
from plinth.engine.logs import LogMark
from plinth.engine.network import free_port
from plinth.engine.place import ALONE, FurtherNodes, NodeRank, Place
from plinth.engine.seam import ASGIApp, EngineError, LocalModel, Progress
from plinth.engine.trust import refuse_untrusted
from plinth.engine.vllm_args import parse_arguments
from plinth.engine.vllm_devices import TELL_DEVICE, find_seen
from plinth.engine.vllm_environment import prepare_environment
from plinth.engine.vllm_figures import TELL, put_together

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.25
_TELL_SECONDS = 10.0


class VllmEngine:
    """One AsyncLLM; its core and workers are processes that end with the replica's."""

    def __init__(
        self,
        spec: EngineSpec,
        cache_dir: Path,
        *,
        trust_remote_code: bool = False,
        place: Place = ALONE,
    ) -> None:
        self._spec = spec
        self._place = place
        self._trust_remote_code = trust_remote_code
        self._cache_dir = cache_dir
        self._client: AsyncLLM | None = None
        self._lifespan = contextlib.AsyncExitStack()
        self._converting: subprocess.Popen[bytes] | None = None

    async def load(self, model: LocalModel, progress: Progress) -> ASGIApp:
        """Convert the model if need be, start the engine's processes, and build the app."""
        refuse_untrusted(self._spec, trust_remote_code=self._trust_remote_code)
        if model.format is ModelFormat.GGUF:
            model = await asyncio.to_thread(
                converted, model, self._cache_dir, progress, self._note_conversion
            )
        progress.saying("starting vLLM")
        self._place.here.show(maker_here(), os.environ)
        rank = self._start_further_nodes()
        watching = asyncio.create_task(_follow_shards(LogMark.here(), model.weights_bytes, progress))
        try:
            args = await _unless_lost(asyncio.to_thread(self._start, model, rank), self._place.further)
        finally:
            watching.cancel()
        return await self._build(args)

    def _start_further_nodes(self) -> NodeRank | None:
        """This node's rank, once the others are told to meet here; None where there are none."""
        if self._place.further is None:
            return None
        port = free_port(self._place.address)
        here, *others = (self._place.rank(rank, port) for rank in range(self._place.nodes))
        self._place.further.start(others)
        return here

    def _note_conversion(self, process: subprocess.Popen[bytes]) -> None:
        self._converting = process

    def _start(self, model: LocalModel, rank: NodeRank | None) -> Any:
        """Runs in a thread: imports and the engine's start take tens of seconds."""
        prepare_environment(self._spec, self._place.address)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - loads torch
            from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415 - the same
            from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - the same
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be loaded here ({error}); install plinth[vllm] on this node"
            ) from error
        _adapt_processes()
        args = parse_arguments(self._spec, model, rank)
        engine_args = AsyncEngineArgs.from_cli_args(args)
        try:
            config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
            self._client = AsyncLLM.from_vllm_config(
                vllm_config=config,
                usage_context=UsageContext.OPENAI_API_SERVER,
                enable_log_requests=engine_args.enable_log_requests,
                aggregate_engine_logging=engine_args.aggregate_engine_logging,
                disable_log_stats=engine_args.disable_log_stats,
            )
        except Exception as error:
            raise EngineError(f"vLLM did not start: {_first_cause(error)}") from error
        return args

    async def _build(self, args: Any) -> ASGIApp:
        from vllm.entrypoints.openai import api_server  # noqa: PLC0415 - loaded by now

        client = self._client
        if client is None:
            raise EngineError("vLLM was closed while it started")
        await client.reset_mm_cache()
        tasks = await client.get_supported_tasks()
        app = api_server.build_app(args, tasks, client.model_config)
        await api_server.init_app_state(client, app.state, args, tasks)
        # vLLM's error handlers ask their server to stop when the engine is dead; the replica sees that by itself.
        app.state.server = SimpleNamespace(should_exit=False)
        await self._lifespan.enter_async_context(app.router.lifespan_context(app))
        answer: ASGIApp = app
        return answer

    async def figures(self) -> EngineFigures | None:
        """What its workers tell. A replica that answers is ready even if they do not."""
        client = self._client
        if client is None:
            return None
        config = client.vllm_config
        each_holds = config.cache_config.kv_cache_size_tokens or 0
        try:
            told = await _ask_workers(client, TELL)
            return put_together(told, each_holds * config.parallel_config.data_parallel_size)
        except Exception:  # noqa: BLE001 - vLLM passes on whatever a worker raised
            _log.exception("vLLM did not tell its figures.")
            return None

    async def accelerators(self) -> tuple[SeenDevice, ...]:
        """What its workers tell of their devices, rank by rank."""
        further = self._place.further
        nodes = (self._place.here, *(further.accelerators if further else ()))
        if self._client is None or not any(node.given for node in nodes):
            return ()
        try:
            told = await _ask_workers(self._client, TELL_DEVICE)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("vLLM did not tell its devices.")
            return ()
        return find_seen(told, nodes)

    async def until_dead(self) -> str:
        """Waits: vLLM notes the death of any of its processes here, Ray that of further nodes; the log tells the cause."""
        here = asyncio.create_task(self._until_errored())
        there = asyncio.create_task(self._place.further.until_dead()) if self._place.further else here
        try:
            await asyncio.wait({here, there}, return_when=asyncio.FIRST_COMPLETED)
            return there.result() if there.done() else here.result()
        finally:
            here.cancel()
            there.cancel()

    async def _until_errored(self) -> str:
        while self._client is not None and not self._client.errored:
            await asyncio.sleep(_LOOK_SECONDS)
        return "vLLM's engine died (EngineDeadError)"

    async def close(self) -> None:
        """End the engine's processes, and a conversion that is under way."""
        if self._converting is not None:
            self._converting.kill()
        if self._place.further is not None:
            self._place.further.close()
        await self._lifespan.aclose()
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.shutdown)


async def _ask_workers(client: AsyncLLM, method: str) -> list[Any]:
    """What the workers of all ranks answer.

    `AsyncLLM.collective_rpc` asks all, and passes on what the first data-parallel rank says (`DPLBAsyncMPClient` in
    vllm/v1/engine/core_client.py).
    """
    core = client.engine_core
    asked = (
        core._call_utility_async("collective_rpc", method, _TELL_SECONDS, (), None, engine=engine)  # noqa: SLF001
        for engine in core.core_engines
    )
    return [answer for told in await asyncio.gather(*asked) for answer in told]


async def _unless_lost(starting: Coroutine[Any, Any, Any], further: FurtherNodes | None) -> Any:
    """What the start gives; where a further node is lost meanwhile, vLLM would wait for it for half an hour.

    Raises:
        EngineError: the start's own, or that a node was lost.
    """
    if further is None:
        return await starting
    start, lost = asyncio.create_task(starting), asyncio.create_task(further.until_dead())
    try:
        await asyncio.wait({start, lost}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            return start.result()
        while not start.done():  # it ends when its core does, which may not have been started yet
            for child in multiprocessing.active_children():
                child.kill()
            await asyncio.wait({start}, timeout=_LOOK_SECONDS)
        raise EngineError(lost.result()) from start.exception()
    finally:
        lost.cancel()


def _adapt_processes() -> None:
    """Have each core and coordinator watch its parent: vLLM's outlive a killed one."""
    from vllm.v1.engine.coordinator import DPCoordinatorProc  # noqa: PLC0415 - loaded by now
    from vllm.v1.engine.core import EngineCoreProc  # noqa: PLC0415 - the same

    from plinth.engine.vllm_core import run_coordinator, run_engine_core  # noqa: PLC0415 - imports vLLM

    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
    DPCoordinatorProc.run_coordinator = staticmethod(run_coordinator)


async def _follow_shards(mark: LogMark, total: int, progress: Progress) -> None:
    """Report what vLLM's own progress bar over the weights' files says."""
    while True:
        percent = mark.last_percent("checkpoint shards:")
        if percent is not None:
            progress.moved(total * percent // 100, total)
        await asyncio.sleep(_LOOK_SECONDS * 4)


def _first_cause(error: BaseException) -> str:
    """What a person needs of an error: pydantic's wrapping says the same thing four times."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    value = next((line for line in lines if line.startswith("Value error, ")), lines[0] if lines else "")
    return value.removeprefix("Value error, ").partition(" [type=")[0] or type(error).__name__
