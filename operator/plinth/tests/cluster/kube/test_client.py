"""The client over a real socket: what it asks, what its answers mean, and that nothing takes for ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from plinth.cluster.kube import client as client_module
from plinth.cluster.kube.client import (
    ENDPOINT_SLICE,
    GPU_POOL,
    NODE,
    POD,
    KubeAway,
    KubeClient,
    KubeRefused,
    NotLeaderError,
)
from plinth.cluster.kube.login import LoginError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """An HTTP server that answers as each test says."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[Any] = []
        self.answer: Answer = self.echo
        self.observed: list[tuple[str, int]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.query)))
        text = await request.text()
        self.bodies.append(json.loads(text) if text else None)
        return await self.answer(request)

    @staticmethod
    async def echo(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"resourceVersion": "7"}, "items": []})

    def says(self, status: int, **body: Any) -> None:
        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.json_response(body, status=status)

        self.answer = answer


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Api]:
    made = Api()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    async with TestServer(app) as server:
        write_kubeconfig(tmp_path / "config", str(server.make_url("/")).rstrip("/"), token="first")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield made


def write_kubeconfig(path: Path, server: str, *, token: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(config))


@pytest.fixture
async def client(api: Api) -> AsyncIterator[KubeClient]:
    made = await KubeClient.connect(observe=lambda verb, status: api.observed.append((verb, status)))
    yield made
    await made.close()


def test_paths_are_those_of_the_api() -> None:
    assert POD.path() == "/api/v1/pods"
    assert POD.path("a", "b", "log") == "/api/v1/namespaces/a/pods/b/log"
    assert GPU_POOL.path("ignored", "h200", "status") == "/apis/plinth.dev/v1alpha1/gpupools/h200/status"
    assert ENDPOINT_SLICE.path("a") == "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices"
    assert NODE.path("", "../pods") == "/api/v1/nodes/..%2Fpods"


async def test_apply_is_server_side_with_our_field_manager_and_bounded_on_the_servers_side_too(
    api: Api, client: KubeClient
) -> None:
    await client.apply(GPU_POOL, {"metadata": {"name": "h200"}, "status": {"nodes": 1}}, subresource="status")
    method, path, query = api.requests[0]
    assert (method, path) == ("PATCH", "/apis/plinth.dev/v1alpha1/gpupools/h200/status")
    assert query == {"fieldManager": "plinth", "force": "true", "timeout": "5s"}
    assert api.bodies[0]["apiVersion"] == "plinth.dev/v1alpha1"
    assert api.bodies[0]["kind"] == "GPUPool"
    assert api.observed == [("PATCH", 200)]


async def test_a_list_is_read_page_by_page(api: Api, client: KubeClient) -> None:
    async def pages(request: web.Request) -> web.StreamResponse:
        last = "continue" in request.query
        metadata = {"resourceVersion": "9"} | ({} if last else {"continue": "more"})
        return web.json_response({"metadata": metadata, "items": [{"n": 2 if last else 1}]})

    api.answer = pages
    assert await client.list(POD, namespace="a", labels="x=y") == ([{"n": 1}, {"n": 2}], "9")
    assert [query.get("labelSelector") for _, _, query in api.requests] == ["x=y", "x=y"]


async def test_what_is_not_there_is_none_and_deleting_it_is_fine(api: Api, client: KubeClient) -> None:
    api.says(404, reason="NotFound", message="no such pod")
    assert await client.get(POD, "a", "b") is None
    await client.delete(POD, "a", "b", uid="u")
    assert api.bodies[-1]["preconditions"] == {"uid": "u"}


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_answer_that_says_nothing_of_the_request_is_no_answer(
    api: Api, client: KubeClient, status: int
) -> None:
    api.says(status, message="etcdserver: leader changed")
    with pytest.raises(KubeAway, match="leader changed"):
        await client.get(POD, "a", "b")


async def test_a_refusal_says_why(api: Api, client: KubeClient) -> None:
    api.says(422, reason="Invalid", message="spec.x: must be y")
    with pytest.raises(KubeRefused, match="must be y") as raised:
        await client.create(POD, {"metadata": {"namespace": "a", "name": "b"}})
    assert (raised.value.status, raised.value.reason) == (422, "Invalid")


async def test_a_refusal_that_is_not_json_is_still_a_refusal(api: Api, client: KubeClient) -> None:
    async def plain(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="forbidden, says the proxy")

    api.answer = plain
    with pytest.raises(KubeRefused, match="says the proxy"):
        await client.patch(POD, "a", "b", {})


async def test_a_call_without_an_answer_ends_in_time(
    api: Api, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WRITE_SECONDS", 0.2)

    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3)
        return web.json_response({})

    api.answer = hang
    started = time.monotonic()
    with pytest.raises(KubeAway):
        await client.patch(POD, "a", "b", {})
    assert time.monotonic() - started < 1
    assert api.observed == [("PATCH", 0)]


async def test_credentials_that_were_replaced_are_read_again(
    api: Api, client: KubeClient, tmp_path: Path
) -> None:
    tokens: list[str] = []

    async def only_the_second(request: web.Request) -> web.StreamResponse:
        tokens.append(request.headers["Authorization"])
        config = tmp_path / "config"
        write_kubeconfig(
            config, yaml.safe_load(config.read_text())["clusters"][0]["cluster"]["server"], token="2"
        )
        return web.json_response({}, status=200 if tokens[-1] == "Bearer 2" else 401)

    api.answer = only_the_second
    assert await client.get(POD, "a", "b") == {}
    assert tokens == ["Bearer first", "Bearer 2"]


async def test_only_writes_ask_the_fence_and_none_leaves_when_it_is_shut(
    api: Api, client: KubeClient
) -> None:
    class Shut:
        def check(self) -> None:
            raise NotLeaderError("shut")

    fenced = client.fenced(Shut())
    metadata = {"namespace": "a", "name": "b"}
    await fenced.get(POD, "a", "b")
    await fenced.list(POD)
    for write in (
        lambda: fenced.apply(POD, {"metadata": metadata}),
        lambda: fenced.patch(POD, "a", "b", {}),
        lambda: fenced.create(POD, {"metadata": metadata}),
        lambda: fenced.replace(POD, {"metadata": metadata}),
        lambda: fenced.delete(POD, "a", "b"),
    ):
        with pytest.raises(NotLeaderError):
            await write()
    assert {method for method, _, _ in api.requests} == {"GET"}
    await client.delete(POD, "a", "b")


async def test_a_fenced_write_once_begun_is_waited_for_when_its_caller_is_cancelled(
    api: Api, client: KubeClient
) -> None:
    class Open:
        def check(self) -> None:
            return

    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        begun.set()
        await asyncio.sleep(0.3)
        ended.set()
        return web.json_response({})

    api.answer = slow
    task = asyncio.create_task(client.fenced(Open()).patch(POD, "a", "b", {}))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert ended.is_set()


def events(*lines: bytes, cut: bool = False) -> Answer:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return stream


def event(kind: str, **item: Any) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


async def watched(client: KubeClient) -> list[tuple[str, dict[str, Any]]]:
    return [each async for each in client.watch(POD, resource_version="5", namespace="a", labels="x=y")]


async def test_a_watch_gives_changes_and_bookmarks_until_the_server_ends_it(
    api: Api, client: KubeClient
) -> None:
    long = "x" * 300_000
    api.answer = events(event("ADDED", name=long)[:1000], event("ADDED", name=long)[1000:], event("BOOKMARK"))
    assert await watched(client) == [("ADDED", {"name": long}), ("BOOKMARK", {})]
    query = api.requests[0][2]
    assert query["resourceVersion"] == "5"
    assert query["allowWatchBookmarks"] == "true"
    assert query["labelSelector"] == "x=y"


async def test_a_watch_that_is_cut_says_so(api: Api, client: KubeClient) -> None:
    api.answer = events(event("ADDED"), b'{"type": "ADD', cut=True)
    with pytest.raises(KubeAway):
        await watched(client)


async def test_a_watch_from_too_long_ago_is_refused_with_410(api: Api, client: KubeClient) -> None:
    api.answer = events(event("ERROR", code=410, reason="Expired", message="too old resource version"))
    with pytest.raises(KubeRefused, match="too old") as raised:
        await watched(client)
    assert raised.value.status == 410


async def test_without_any_cluster_the_error_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(LoginError, match="KUBECONFIG"):
        await KubeClient.connect()


async def test_a_kubeconfig_that_switches_verification_off_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    write_kubeconfig(path, "https://127.0.0.1:1", token="t")
    config = yaml.safe_load(path.read_text())
    config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(LoginError, match="insecure-skip-tls-verify"):
        await KubeClient.connect()


async def test_a_pods_account_is_read_from_its_folder_and_its_token_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from plinth.cluster.kube import login  # noqa: PLC0415 - its module is patched here

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setattr(login, "make_ssl", lambda _authority: None)
    (tmp_path / "token").write_text("one\n")
    found = login.account_login(tmp_path)
    assert found.server == "https://[fd00::1]:6443"
    assert await found.headers() == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert await found.headers() == {"Authorization": "Bearer two"}
    (tmp_path / "token").unlink()
    with pytest.raises(LoginError, match="token"):
        await found.headers()
