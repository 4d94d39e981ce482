"""What is read from Ray's node state, and how its silence is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.ray_rest import RayRest, read_node

NODE: dict[str, Any] = {
    "state": "ALIVE",
    "node_id": "ab12",
    "node_ip": "127.0.0.1",
    "labels": {"ray.io/node-id": "ab12", "rack": "r1"},
    "resources_total": {"CPU": 16.0, "memory": 1000.0},
}


async def serve(app: web.Application) -> TestServer:
    server = TestServer(app)
    await server.start_server()
    return server


def nodes_answer(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"result": True, "data": {"result": {"result": list(rows)}}}


def test_a_machine_without_gpus_is_a_cpu_node() -> None:
    node = read_node(NODE)
    assert (node.accelerator, node.accelerators, node.memory_bytes, node.cpus) == ("CPU", 0, 1000, 16)
    assert node.labels["rack"] == "r1"


def test_accelerators_are_read_from_resources_and_labels() -> None:
    row = {
        **NODE,
        "labels": {"plinth.dev/accelerator": "H200", "plinth.dev/accelerator-memory-mib": "143771"},
        "resources_total": {"CPU": 32.0, "GPU": 2.0, "memory": 1000.0},
    }
    node = read_node(row)
    assert (node.accelerator, node.accelerators) == ("H200", 2)
    assert node.accelerator_memory_bytes == 143771 * 2**20


async def test_dead_nodes_are_left_out_and_the_token_is_sent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token\n")
    seen: list[str] = []

    async def nodes(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response(nodes_answer(NODE, {**NODE, "node_id": "cd34", "state": "DEAD"}))

    async def applications(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({"applications": {}})

    app = web.Application()
    app.router.add_get("/api/v0/nodes", nodes)
    app.router.add_get("/api/serve/applications/", applications)
    server = await serve(app)
    rest = RayRest(str(server.make_url("")), token)
    try:
        observation = await rest.observe()
    finally:
        await rest.close()
        await server.close()
    assert [node.node_id for node in observation.nodes] == ["ab12"]
    assert seen == ["Bearer secret-token"] * 2


async def test_a_refused_connection_is_capacity_away() -> None:
    rest = RayRest("http://127.0.0.1:9", None, timeout_seconds=2)
    with pytest.raises(CapacityAway, match="does not answer"):
        await rest.observe()
    await rest.close()


async def test_a_refusal_is_capacity_away_with_rays_own_words() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=400, text="num_replicas must be positive")

    app = web.Application()
    app.router.add_put("/api/serve/applications/", refuse)
    server = await serve(app)
    rest = RayRest(str(server.make_url("")), None)
    with pytest.raises(CapacityAway, match="num_replicas must be positive"):
        await rest.apply({"applications": []})
    await rest.close()
    await server.close()
