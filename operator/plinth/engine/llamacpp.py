"""The llama.cpp engine: GGUF models on CPU or accelerator, for generation, embeddings and reranking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import EngineSpec, ModelFormat, SeenDevice
from plinth.engine.accelerators import NO_ACCELERATORS, NodeAccelerators, ToldDevice, maker_here
from plinth.engine.llamacpp_figures import read_figures
from plinth.engine.llamacpp_refusals import honest_status
from plinth.engine.logs import LogMark
from plinth.engine.loopback import LoopbackForwarder
from plinth.engine.seam import ASGIApp, EngineError, LocalModel, Progress
from plinth.engine.trust import refuse_untrusted

_LOOK_SECONDS = 0.25
_END_SECONDS = 5.0
_ALL_LAYERS = 999
_ERRORS_AND_WARNINGS = 2
_MIN_BATCH = 512
_OURS = frozenset(
    (
        *(
            "model",
            "port",
            "hostnames",
            "reuse-port",
            "api-keys",
            "api-prefix",
            "ssl-file-key",
            "ssl-file-cert",
        ),
        *("n-ctx", "n-parallel", "embedding"),
        *("ui", "public-path", "endpoint-slots", "endpoint-props", "endpoint-metrics"),
        *(
            "media-path",
            "slot-save-path",
            "models-dir",
            "server-tools",
            "mcp-servers-config",
            "mcp-servers-json",
        ),
    )
)
"""Arguments that Plinth sets from other fields, or that would open more than the inference API."""


class _Answer(msgspec.Struct):
    """What the server process says on its one line."""

    address: str = ""
    error: str = ""
    devices: tuple[str, ...] = ()
    """Its accelerators by their address on the PCI bus, empty where it does not know one's."""


def make_settings(spec: EngineSpec) -> dict[str, str]:
    """What a replica's spec means to llama.cpp, by its names.

    llama.cpp divides `n_ctx` among its slots, so that every one of `concurrency` requests may be up to
    `context_tokens` long only if the product of both is asked for. (A unified KV cache would let long requests
    borrow from short ones, and fail them when all are long.)
    """
    settings = {
        "n-ctx": str(spec.context_tokens * spec.concurrency),
        "n-parallel": str(spec.concurrency),
        "n-gpu-layers": str(0 if spec.threads else _ALL_LAYERS),
        "n-threads-http": str(
            2 * spec.concurrency + 8
        ),  # one a connection: those that wait for a slot hold one too
        "fit-params": "false",  # the planner has made sure that it fits; never serve less context silently
        "cache-ram-mib": "0",  # 8 GiB by default, which no plan counted
        "cache-idle-slots": "false",
        "ui": "false",
        "endpoint-slots": "false",
        "verbosity": str(_ERRORS_AND_WARNINGS),
    }
    if spec.task != Task.GENERATE:
        # A prompt is embedded in one go, so one physical batch must hold the longest.
        batch = str(max(_MIN_BATCH, spec.context_tokens))
        settings |= {"embedding": "true", "n-batch": batch, "n-ubatch": batch}
    if spec.task == Task.RERANK:
        settings["pooling-type"] = "rank"
    return settings


def refuse_reserved(args: dict[str, str]) -> None:
    """Refuse arguments that are not the user's to set.

    Raises:
        EngineError: names the first such argument.
    """
    for name in sorted(args):
        if name in _OURS:
            raise EngineError(f"engine.args.{name} is set by Plinth; remove it")


class LlamaCppEngine:
    """Runs xllamacpp's server in a process of its own, and forwards to it over loopback."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        trust_remote_code: bool = False,
        here: NodeAccelerators = NO_ACCELERATORS,
    ) -> None:
        self._spec = spec
        self._here = here
        self._devices: tuple[str, ...] = ()
        self._trust_remote_code = trust_remote_code
        self._process: subprocess.Popen[bytes] | None = None
        self._says: asyncio.StreamReader | None = None
        self._app: LoopbackForwarder | None = None
        self._mark = LogMark.here()

    async def load(self, model: LocalModel, progress: Progress) -> ASGIApp:
        """Start the process and wait until it has loaded the model."""
        if model.format is not ModelFormat.GGUF:
            raise EngineError(
                f"llama.cpp reads GGUF, and {model.path.name} is {model.format}; choose engine VLLM"
            )
        refuse_reserved(self._spec.args)
        refuse_untrusted(self._spec, trust_remote_code=self._trust_remote_code)
        self._here.show(maker_here(), os.environ)
        key = secrets.token_urlsafe(32)
        self._process = self._spawn(model.path, key)
        self._says = await _reader(self._process)
        watching = asyncio.create_task(_follow_memory(self._process.pid, model.weights_bytes, progress))
        try:
            line = await self._says.readline()
        finally:
            watching.cancel()
        if not line:
            raise EngineError(f"llama.cpp {self._ending()} while it loaded the model")
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.error:
            raise EngineError(answer.error)
        self._devices = answer.devices
        self._app = LoopbackForwarder(answer.address, key, honest_status)
        return self._app

    def _spawn(self, model: Path, key: str) -> subprocess.Popen[bytes]:
        settings = {
            "parent": os.getpid(),
            "model": str(model),
            "key": key,
            "alias": self._spec.served_names[0],
            "threads": self._spec.threads,
            "fixed": make_settings(self._spec),
            "args": self._spec.args,
        }
        # Started from the event loop's thread: the kernel ends the process when the thread that started it ends.
        process = subprocess.Popen(  # this very Python, no shell
            [sys.executable, "-m", "plinth.engine.llamacpp_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(settings))
                process.stdin.close()
        return process

    async def figures(self) -> EngineFigures | None:
        """What the log of its load says; None where stderr is no file that could be read."""
        return read_figures(self._mark.written())

    async def accelerators(self) -> tuple[SeenDevice, ...]:
        """What llama.cpp lists: it spreads a model over all that it sees."""
        told = (ToldDevice(ordinal, address=address) for ordinal, address in enumerate(self._devices))
        return tuple(seen for each in told if (seen := self._here.seen(each)) is not None)

    async def until_dead(self) -> str:
        """The process never says a second line: its stdout ends when it does."""
        if self._says is not None:
            await self._says.read()
        return f"llama.cpp {self._ending()}"

    def _ending(self) -> str:
        try:
            code = self._process.wait(_END_SECONDS) if self._process is not None else 0
        except subprocess.TimeoutExpired:
            return "stopped answering"
        if code >= 0:
            return f"ended with exit status {code}"
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")

    async def close(self) -> None:
        """End the process: the surest way to free what it holds."""
        if self._app is not None:
            await self._app.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, _END_SECONDS)


async def _reader(process: subprocess.Popen[bytes]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    return reader


async def _follow_memory(pid: int, total: int, progress: Progress) -> None:
    """Report how much of the weights is in memory: llama.cpp maps the file and touches it as it loads."""
    while True:
        progress.moved(min(_resident_bytes(pid), total), total)
        await asyncio.sleep(_LOOK_SECONDS)


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
