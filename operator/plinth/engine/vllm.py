"""The vLLM engine: AsyncLLM and vLLM's own OpenAI app inside the replica, so that a token takes one hop.

vLLM is built up as `vllm serve` does it (vllm/entrypoints/openai/api_server.py, 0.25.1: `run_server_worker`,
`build_and_serve`), only without a server of its own: Ray Serve's answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import EngineSpec, ModelFormat
from plinth.engine.conversion import converted
from plinth.engine.logs import LogMark
from plinth.engine.seam import ASGIApp, EngineError, LocalModel, Progress
from plinth.engine.trust import refuse_untrusted
from plinth.engine.vllm_args import parse_arguments
from plinth.engine.vllm_figures import TELL, put_together

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.25
_TELL_SECONDS = 10.0
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout otherwise: causes of failures are looked for in one place
    "VLLM_HOST_IP": "127.0.0.1",  # all its processes are on this machine; else they listen on its address
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # as `vllm serve` does; a fork of a Ray worker would share its threads
}


class VllmEngine:
    """One AsyncLLM; its core and workers are processes that end with the replica's."""

    def __init__(self, spec: EngineSpec, cache_dir: Path, *, trust_remote_code: bool = False) -> None:
        self._spec = spec
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
        watching = asyncio.create_task(_follow_shards(LogMark.here(), model.weights_bytes, progress))
        try:
            args = await asyncio.to_thread(self._start, model)
        finally:
            watching.cancel()
        return await self._build(args)

    def _note_conversion(self, process: subprocess.Popen[bytes]) -> None:
        self._converting = process

    def _start(self, model: LocalModel) -> Any:
        """Runs in a thread: imports and the engine's start take tens of seconds."""
        os.environ |= _ENVIRONMENT | _cpu_environment(self._spec)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - loads torch
            from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415 - the same
            from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - the same
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be loaded here ({error}); install plinth[vllm] on this node"
            ) from error
        _end_cores_with_replica()
        args = parse_arguments(self._spec, model)
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
            told = await client.collective_rpc(TELL, timeout=_TELL_SECONDS)
            return put_together(told, each_holds * config.parallel_config.data_parallel_size)
        except Exception:  # noqa: BLE001 - vLLM passes on whatever a worker raised
            _log.exception("vLLM did not tell its figures.")
            return None

    async def until_dead(self) -> str:
        """Waits: vLLM notes the death of any of its processes; the log tells the cause."""
        while self._client is not None and not self._client.errored:
            await asyncio.sleep(_LOOK_SECONDS)
        return "vLLM's engine died (EngineDeadError)"

    async def close(self) -> None:
        """End the engine's processes, and a conversion that is under way."""
        if self._converting is not None:
            self._converting.kill()
        await self._lifespan.aclose()
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.shutdown)


def _cpu_environment(spec: EngineSpec) -> dict[str, str]:
    """On CPUs: as many threads as planned, and none bound to a core that another replica may have bound too."""
    if not spec.threads:
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(spec.threads)}


def _end_cores_with_replica() -> None:
    """Have each engine core watch its parent: vLLM's own workers do, its cores outlive a killed parent."""
    from vllm.v1.engine.core import EngineCoreProc  # noqa: PLC0415 - loaded by now

    from plinth.engine.vllm_core import run_engine_core  # noqa: PLC0415 - imports vLLM

    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)


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
