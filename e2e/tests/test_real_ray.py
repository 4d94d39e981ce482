"""The cycle's ports on the real Ray: the capacity contract on two nodes, and joining one that runs already."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fleet import Fleet, make_model

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.local_ray import (
    RAY_ENVIRONMENT,
    RayProcess,
    free_port,
    start_ray,
    stop_ray,
)
from plinth.cluster.processes import end_processes, find_instance_processes, instance_environment
from plinth.cluster.ray_rest import RayRest
from plinth.desired.serve_config import ServeSettings
from plinth.domain.fleet import Node
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


@pytest.fixture
async def two_nodes(tmp_path: Path) -> AsyncIterator[RayRest]:
    """A Ray with a second node, started by Ray's own test utility."""
    token, port = tmp_path / "token", free_port()
    token.write_text("t" * 40)
    environment = {**instance_environment(instance()), **RAY_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "two_nodes.py"),
        str(port),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    rest = RayRest(f"http://127.0.0.1:{port}", token)
    yield rest
    await rest.close()
    process.kill()
    await process.wait()
    await end_processes(find_instance_processes(instance()), patience_seconds=3)


async def test_ray_keeps_the_capacity_contract_and_runs_each_replica_where_the_plan_put_it(
    two_nodes: RayRest, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    settings = ServeSettings(
        secret_file=str(secret),
        secrets_dir=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        http_host="127.0.0.1",
        http_port=free_port(),
    )
    assert len({node.node_id for node in await nodes_of(two_nodes, count=2)}) == 2
    await capacity_contract.holds(two_nodes, settings, lambda: asyncio.sleep(0.5))


async def nodes_of(rest: RayRest, *, count: int) -> tuple[Node, ...]:
    deadline = asyncio.get_running_loop().time() + 90
    while asyncio.get_running_loop().time() < deadline:
        try:
            nodes = (await rest.observe()).nodes
        except CapacityAway:
            nodes = ()
        if len(nodes) == count:
            return nodes
        await asyncio.sleep(0.5)
    raise AssertionError(f"Ray did not come to have {count} nodes")


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
