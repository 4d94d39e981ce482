"""The cycle's ports on the real Ray: the capacity contract, on two nodes, and that nothing listens beyond loopback."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fleet import Fleet, make_model

from plinth.cluster.local_ray import (
    RAY_ENVIRONMENT,
    RayProcess,
    free_port,
    start_ray,
    stop_ray,
)
from plinth.cluster.processes import find_instance_processes, instance_environment
from plinth.cluster.ray_rest import RayRest
from plinth.desired.serve_config import ServeSettings
from plinth.tests.controllers import capacity_contract

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def instance() -> str:
    return f"e2e{os.getpid():05d}"


@pytest.fixture
async def ray(tmp_path: Path) -> AsyncIterator[RayProcess]:
    token = tmp_path / "token"
    token.write_text("t" * 40)
    started = await start_ray(instance(), token, tmp_path / "ray.log")
    yield started
    await stop_ray(started, instance())
    assert find_instance_processes(instance()) == []


async def add_node(token: Path) -> None:
    """A second node of the same Ray on this machine, with a memory of its own to hand out."""
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in find_instance_processes(instance())]
    address = next(
        match[1] for match in map(re.compile(r"--gcs-address=([\d.:]+)").search, commands) if match
    )
    environment = {**instance_environment(instance()), **RAY_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"]
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=2", f"--memory={2**31}", "--disable-usage-stats"]
    process = await asyncio.create_subprocess_exec(
        *command, *options, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 90) == 0


async def test_ray_keeps_the_capacity_contract_and_runs_each_replica_where_the_plan_put_it(
    ray: RayProcess, tmp_path: Path
) -> None:
    token, secret = tmp_path / "token", tmp_path / "secret"
    secret.write_text("s" * 40)
    await add_node(token)
    settings = ServeSettings(
        secret_file=str(secret),
        secrets_dir=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        http_host="127.0.0.1",
        http_port=free_port(),
    )
    rest = RayRest(ray.dashboard, token)
    try:
        for _ in range(100):
            nodes = (await rest.observe()).nodes
            if len(nodes) == 2:
                break
            await asyncio.sleep(0.2)
        assert len({node.node_id for node in nodes}) == 2
        await capacity_contract.holds(rest, settings, lambda: asyncio.sleep(0.5))
    finally:
        await rest.close()
    assert listening_beyond_loopback() == []


async def test_up_joins_a_ray_and_leaves_it_as_it_was(ray: RayProcess, tmp_path: Path, fleet: Fleet) -> None:
    fleet.write(make_model())
    joining = ("--ray", ray.dashboard, "--ray-token-file", str(tmp_path / "token"))
    listening = ("--listen", f"127.0.0.1:{fleet.port}")
    done = await asyncio.to_thread(
        fleet.run, "up", str(fleet.folder), *listening, *joining, "--ask", "Say hello.", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("> Say hello.")[1].strip()
    assert ray.process.is_running()
    rest = RayRest(ray.dashboard, tmp_path / "token")
    try:
        await capacity_contract.until(
            rest, lambda: asyncio.sleep(0.5), lambda found: not found.serve["applications"]
        )
    finally:
        await rest.close()


def listening_beyond_loopback() -> list[str]:
    """Listening TCP sockets of this instance's processes that are not bound to loopback."""
    inodes = {inode for pid in find_instance_processes(instance()) for inode in socket_inodes(pid)}
    found = []
    for table, loopback in (("tcp", ("0100007F",)), ("tcp6", LOOPBACK_6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].split(":")[0], fields[3], fields[9]
            if state == "0A" and inode in inodes and address not in loopback:
                found.append(line)
    return found


LOOPBACK_6 = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""::1 and ::ffff:127.0.0.1, as /proc/net/tcp6 writes them."""


def socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        return found
    return found
