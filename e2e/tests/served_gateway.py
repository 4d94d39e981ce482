"""A gateway as its users meet it: its own process, real replicas of llama.cpp behind it, a key that opens it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from plinth.domain.access import AccessTable, KeyRecord, PolicyRecord
from plinth.domain.control_lines import encode_access, encode_table
from plinth.domain.traffic import Availability, ModelRoute, ReplicaRoute, ReplicaState, RouteTable
from plinth.tests.engine.serving import SECRET

ROOT = Path(__file__).parents[2]
KEY = "sk-plinth-a-key-of-the-tests-alone"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """Where it answers, and by which key."""

    url: str
    key: str = KEY

    def environment(self) -> dict[str, str]:
        """What clients are configured by, whoever made them, and nothing of this process's own."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_BASE": f"{self.url}/v1",
            "OPENAI_API_KEY": self.key,
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_BASE": self.url,
            "ANTHROPIC_API_KEY": self.key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is fetched when the package is imported
            "LANGSMITH_TRACING": "false",
        }


@contextmanager
def served_gateway(folder: Path) -> Iterator[Served]:
    """`tiny` generates, `vectors` embeds."""
    with contextlib.ExitStack() as stack:
        routes = (
            _route("tiny", "Generate", stack.enter_context(_replica(folder / "tiny", {}))),
            _route("vectors", "Embed", stack.enter_context(_replica(folder / "vectors", _EMBEDS))),
        )
        control = folder / "g.sock"
        (folder / "secret").write_text(SECRET)
        words = ["-m", "plinth.gateway", "--listen", "127.0.0.1:0", "--control", str(control)]
        said = stack.enter_context(
            _process([*words, "--secret-file", str(folder / "secret")], folder / "gateway.log")
        )
        stack.enter_context(_controller(control, RouteTable(version=1, models=routes)))
        served = Served("http://" + json.loads(said)["listening"])
        _wait(f"{served.url}/readyz")
        yield served


_EMBEDS: dict[str, object] = {"task": "Embed", "args": {"pooling-type": "mean"}}


def _route(name: str, task: str, base: str) -> ModelRoute:
    place = urlsplit(base)
    replica = ReplicaRoute(
        slot=f"team.{name}.abc.0",
        host=str(place.hostname),
        port=int(place.port or 0),
        path=place.path,
        state=ReplicaState.READY,
        concurrency=2,
        engine="LlamaCpp",
    )
    return ModelRoute(
        model=f"team/{name}",
        names=(name, f"team/{name}"),
        task=task,
        created=1_700_000_000,
        availability=Availability.AVAILABLE,
        message="",
        replicas=(replica,),
        revision="1",
        aliases=(f"{name}@q4",),
    )


def _access() -> AccessTable:
    policy = PolicyRecord(name="team/all")
    key = KeyRecord(
        id="pk_thetests0000",
        tenant="team",
        digest=hashlib.sha256(KEY.encode()).hexdigest(),
        policies=(policy.name,),
    )
    return AccessTable(version=1, keys=(key,), policies=(policy,))


@contextmanager
def _replica(folder: Path, changes: dict[str, object]) -> Iterator[str]:
    """A replica's own address; its engine answers."""
    folder.mkdir()
    name = folder.name
    asked = {"context_tokens": 2048, "served_names": (name, f"team/{name}")} | changes
    words = ["-m", "plinth.tests.engine.run_replica", str(folder), json.dumps(asked)]
    with _process(words, folder / "replica.log") as base:
        deadline = time.monotonic() + _START_SECONDS
        while (state := _fetch(f"{base}/plinth/state"))["phase"] != "Ready":
            assert state["phase"] != "Failed", state
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        yield base


@contextmanager
def _process(words: list[str], log: Path) -> Iterator[str]:
    """The first line of a process of this very Python, which ends with the block."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT / "operator"
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline().strip()
        assert said, log.read_text()[-2000:]
        yield said
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def _controller(path: Path, table: RouteTable) -> Iterator[None]:
    """The fleet cycle's end of the control socket: tells both tables, and lets the reports come."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(path))
        control.sendall(encode_table(table) + encode_access(_access()))
        reading = threading.Thread(target=_read_on, args=(control,))
        reading.start()
        try:
            yield
        finally:
            control.shutdown(socket.SHUT_RDWR)
            reading.join()


def _read_on(control: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while control.recv(65536):
            pass


def _fetch(url: str) -> dict[str, str]:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {SECRET}"})  # noqa: S310 - its own
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return dict(json.loads(answer.read()))


def _wait(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - its own gateway
                return
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
