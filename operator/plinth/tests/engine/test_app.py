"""A replica inside a real Ray, as the fleet cycle deploys it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from plinth.tests.engine.serving import (
    LOOPBACK,
    PREFIX,
    SECRET,
    Served,
    listening_hosts,
    make_args,
    make_spec,
)

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ray:
    """A Ray of its own on loopback, and its REST API."""

    def __init__(self, folder: Path) -> None:
        self.dashboard, self.serve_port = free_port(), free_port()
        self.token = secrets.token_hex(32)
        token_file = folder / "token"
        token_file.write_text(self.token)
        token_file.chmod(0o600)
        environment = os.environ | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        words = [
            *("start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
            *("--dashboard-host=127.0.0.1", f"--port={free_port()}", f"--dashboard-port={self.dashboard}"),
            f"--temp-dir={folder}",
        ]
        self.log = (folder / "start.log").open("w")
        command = [str(Path(sys.executable).parent / "ray"), *words]
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def applications(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.dashboard}/api/serve/applications/",
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/json"},
            method="GET" if body is None else "PUT",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - its own Ray
            text = answer.read()
        return dict(json.loads(text)) if body is None else {}

    def until_up(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                self.applications()
                return
            time.sleep(0.5)
        raise AssertionError("Ray did not start")

    def close(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._session():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
            deadline = time.monotonic() + 10
            while self._session() and time.monotonic() < deadline:
                time.sleep(0.2)
        self.process.wait(10)
        self.log.close()

    def _session(self) -> list[int]:
        listed = subprocess.run(
            ["ps", "-s", str(self.process.pid), "-o", "pid=,stat="],
            capture_output=True,
            text=True,
            check=False,
        )
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [int(pid) for pid, state in rows if not state.startswith("Z")]


@pytest.fixture(scope="module")
def ray() -> Iterator[Ray]:
    with tempfile.TemporaryDirectory(prefix="pe", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray = Ray(Path(folder))
        try:
            ray.until_up()
            yield ray
        finally:
            ray.close()


class Deployed(Served):
    pid = 0


def config(ray: Ray, tmp_path: Path) -> dict[str, Any]:
    deployment = {
        "name": "replica",
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": 100_000,
        "graceful_shutdown_timeout_s": 10,
    }
    application = {
        "name": PREFIX[1:],
        "route_prefix": PREFIX,
        "import_path": "plinth.engine.app:build",
        "args": msgspec.to_builtins(make_args(tmp_path, make_spec())),
        "logging_config": {"enable_access_log": False},
        "deployments": [deployment],
    }
    http = {"host": "127.0.0.1", "port": ray.serve_port, "keep_alive_timeout_s": 3600}
    return {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}


def find_replica(ray: Ray) -> tuple[str, int] | None:
    """The address and pid of the running replica, once there is one."""
    found = ray.applications()
    application = found["applications"].get(PREFIX[1:], {})
    assert application.get("status") != "DEPLOY_FAILED", application
    replicas = [each for part in application.get("deployments", {}).values() for each in part["replicas"]]
    running = [each for each in replicas if each["state"] == "RUNNING"]
    targets = [target for group in found.get("target_groups", []) for target in group["targets"]]
    direct = [target for target in targets if target["port"] != ray.serve_port]
    if not running or not direct:
        return None
    return f"http://{direct[0]['ip']}:{direct[0]['port']}", int(running[0]["pid"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(ray: Ray, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    ray.applications(config(ray, tmp_path_factory.mktemp("slot")))
    deadline = time.monotonic() + 120
    while (found := find_replica(ray)) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as session:
        served = Deployed(found[0] + PREFIX, session)
        served.pid = found[1]
        await served.until("Ready", seconds=120)
        yield served


def children(pid: int) -> list[int]:
    listed = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for path in listed for child in path.read_text().split()]


async def test_the_replica_answers_at_its_own_address_under_its_slots_name(deployed: Deployed) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    status, answer = await deployed.post("/v1/chat/completions", body)
    assert status == 200
    assert answer["model"] == "chat"
    assert answer["usage"]["completion_tokens"] <= 4


async def test_strangers_are_refused(deployed: Deployed) -> None:
    async with aiohttp.ClientSession() as stranger, stranger.get(deployed.base + "/plinth/state") as answer:
        assert answer.status == 401


async def test_the_replica_and_its_engine_listen_on_loopback_only(deployed: Deployed) -> None:
    engine = children(deployed.pid)
    assert len(engine) == 1
    assert listening_hosts([deployed.pid]) == {LOOPBACK}
    assert listening_hosts(engine) == {LOOPBACK}


async def test_a_client_that_hangs_up_frees_the_engine(deployed: Deployed) -> None:
    endless = {"prompt": "Count:", "max_tokens": 400, "ignore_eos": True, "stream": True}
    began = time.monotonic()
    for _ in range(4):  # twice as many as the replica has slots
        async with deployed.session.post(deployed.base + "/v1/completions", json=endless) as answer:
            for _ in range(20):
                await answer.content.readline()
            answer.close()
    ten_tokens = (time.monotonic() - began) / 4
    began = time.monotonic()
    assert (await deployed.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1}))[0] == 200
    assert time.monotonic() - began < 20 * ten_tokens


async def test_at_last_an_engine_does_not_outlive_its_killed_replica(deployed: Deployed) -> None:
    (engine,) = children(deployed.pid)
    os.kill(deployed.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{engine}").exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not Path(f"/proc/{engine}").exists()
