"""The admission server as an API server meets it: TLS, sizes, times, and faults that are no verdicts."""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from plinth.cluster.kube.certificates import Pair, make_pair
from plinth.runtime import admission_server
from plinth.runtime.admission_server import MOST_BYTES, AdmissionServer

Review = Callable[..., Awaitable[Any]]
QUESTION = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1"}}


def answer(*, allowed: bool = True, code: int = 422, message: str = "no") -> Any:
    status = {} if allowed else {"status": {"code": code, "message": message}}
    return {**QUESTION, "response": {"uid": "1", "allowed": allowed, **status}}


async def allow(_question: Any, **_: Any) -> Any:
    return answer()


def pair() -> Pair:
    return make_pair(["127.0.0.1"], time.time())


@asynccontextmanager
async def serving(review: Review, mine: Pair) -> AsyncIterator[AdmissionServer]:
    server = AdmissionServer(host="127.0.0.1", port=0)
    server.use(mine)

    async def serve() -> None:
        async for _ in server(review):
            pass

    task = asyncio.create_task(serve())
    try:
        await server.listening.wait()
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def asking(trusted: Pair) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cadata=trusted.authority.decode())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


async def ask(review: Review, path: str = "validate", *, body: bytes | None = None) -> tuple[int, str]:
    mine = pair()
    async with serving(review, mine) as server, asking(mine) as session:
        data = {"json": QUESTION} if body is None else {"data": io.BytesIO(body)}
        async with session.post(f"https://127.0.0.1:{server.port}/{path}", **data) as response:
            return response.status, await response.text()


async def test_an_answer_is_passed_on_as_it_is() -> None:
    asked: list[tuple[Any, str]] = []

    async def refuse(question: Any, *, webhook: str, headers: dict[str, str]) -> Any:
        assert headers["Content-Type"] == "application/json"
        asked.append((question, webhook))
        return answer(allowed=False, message="spec.pool: …")

    status, text = await ask(refuse, "mutate")
    assert asked == [(QUESTION, "mutate")]
    assert status == 200
    assert '"allowed":false' in text
    assert '"message":"spec.pool: …"' in text


async def test_a_fault_of_ours_is_no_verdict_but_a_failed_call() -> None:
    async def stumble(_question: Any, **_: Any) -> Any:
        return answer(allowed=False, code=500, message="KeyError('x')")

    assert await ask(stumble) == (500, "KeyError('x')")


async def test_an_answer_that_comes_too_late_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_server, "ANSWER_SECONDS", 0.05)

    async def dawdle(_question: Any, **_: Any) -> Any:
        await asyncio.Event().wait()

    assert (await ask(dawdle))[0] == 503


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"request": 1}', b"\xff"])
async def test_what_is_no_review_is_refused_without_asking(body: bytes) -> None:
    async def never(_question: Any, **_: Any) -> Any:
        pytest.fail("asked")

    status, text = await ask(never, body=body)
    assert status == 400
    assert text.startswith("not an AdmissionReview")


async def test_two_of_the_largest_objects_fit_and_no_more() -> None:
    assert (await ask(allow, body=b'{"request": {}}' + b" " * (6 << 20)))[0] == 200
    assert (await ask(allow, body=b'{"request": {}}' + b" " * MOST_BYTES))[0] == 413


@pytest.mark.parametrize("path", ["", "validate/x", "healthz"])
async def test_nothing_else_is_served(path: str) -> None:
    assert (await ask(allow, path))[0] in {404, 405}


async def test_plain_http_is_not_answered() -> None:
    async with serving(allow, pair()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        assert await reader.read(64) == b""
        writer.close()


async def test_nothing_listens_before_there_is_a_certificate() -> None:
    server = AdmissionServer(host="127.0.0.1", port=0)

    review: Review = allow

    async def serve() -> None:
        await anext(aiter(server(review)))

    serving_it = asyncio.create_task(serve())
    await asyncio.sleep(0.05)
    assert not server.listening.is_set()
    serving_it.cancel()
    await asyncio.gather(serving_it, return_exceptions=True)


async def test_a_new_certificate_is_served_in_place_and_open_connections_go_on() -> None:
    old, new = pair(), pair()
    async with serving(allow, old) as server, asking(old) as before, asking(new) as after:
        url = f"https://127.0.0.1:{server.port}/validate"
        async with before.post(url, json=QUESTION) as response:
            assert response.status == 200
            await response.read()
        server.use(new)
        async with after.post(url, json=QUESTION) as response:
            assert response.status == 200
        async with before.post(url, json=QUESTION) as response:  # over the connection that it kept
            assert response.status == 200
        async with asking(old) as stranger:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await stranger.post(url, json=QUESTION)


async def test_the_key_is_never_in_a_file() -> None:
    """Only under /proc, where it is memory of this process."""
    context, paths = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), []

    class Watched:
        def load_cert_chain(self, path: str) -> None:
            paths.append(path)
            context.load_cert_chain(path)

    admission_server.load_pair(Watched(), pair())  # type: ignore[arg-type]
    assert [path.rpartition("/")[0] for path in paths] == ["/proc/self/fd"]
