"""A replica that misbehaves on request, a controller, a bare HTTP client: what the gateway's tests are made of."""

# ruff: noqa: ARG001 - every behaviour takes the replica, the request and the writer, whatever it uses of them
from __future__ import annotations

import asyncio
import functools
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import uvloop

from plinth.domain.access import AccessTable
from plinth.domain.control_lines import decode_line, encode_access, encode_table
from plinth.domain.traffic import (
    Availability,
    LoadReport,
    ModelRoute,
    ObjectiveRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
)
from plinth.gateway.options import Limits, Options
from plinth.gateway.server.process import GatewayProcess

SECRET = "a-secret-of-the-fleet"
EVERYBODY = AccessTable(version=1, requires_key=False)
"""No key is needed."""
MODEL = "team/tiny"


def scenario(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on uvloop, as the gateway runs, for at most 20 s."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            try:
                async with asyncio.timeout(20):
                    await test(*args, **kwargs)
            finally:
                await end_children()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())

    return run


async def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> float:
    """Waits until the condition holds; the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        if loop.time() - began > seconds:
            raise AssertionError(f"not within {seconds} s: {condition}")
        await asyncio.sleep(0.002)
    return loop.time() - began


# --- the replica ---------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """A request as the replica got it."""

    line: str
    headers: dict[str, str]
    body: bytes
    hung_up: bool = False


Behaviour = Callable[["Upstream", Seen, asyncio.StreamWriter], Awaitable[None]]


def event(content: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": content}}]}).encode() + b"\n\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body: bytes, status: str = "200 OK", *, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s" % (
        status.encode(),
        len(body),
        extra,
        body,
    )


def answer(body: dict[str, Any] | None = None, status: str = "200 OK") -> Behaviour:
    document = body or {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}

    async def behave(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(json.dumps(document).encode(), status))

    return behave


def stream(count: int, *, every: float = 0.0, usage: bool = True, die_after: int | None = None) -> Behaviour:
    async def behave(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for index in range(count):
            if die_after == index:
                await writer.drain()
                writer.transport.abort() if every else writer.close()
                return
            writer.write(framed(event(f"t{index}")))
            await writer.drain()
            await asyncio.sleep(every)
        if usage and b"include_usage" in seen.body:  # as engines do: only where it is asked for
            document = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": count}}
            writer.write(framed(b"data: " + json.dumps(document).encode() + b"\n\n"))
        writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    return behave


async def hang(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def close(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.close()


class Upstream:
    """One replica: a raw HTTP server whose behaviour tests replace at will."""

    def __init__(self, behave: Behaviour | None = None) -> None:
        self.behave: Behaviour = behave or answer()
        self.seen: list[Seen] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.idle_seconds: float | None = None
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(
        self, port: int = 0, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = await asyncio.start_server(self._serve, host, port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self.writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while not writer.is_closing():
                async with asyncio.timeout(self.idle_seconds):
                    head = await reader.readuntil(b"\r\n\r\n")
                line, *rest = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v for k, _, v in (item.partition(": ") for item in rest if item)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(Seen(line, headers, body), reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.append(seen)
        work = asyncio.ensure_future(self.behave(self, seen, writer))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            gone.exception()  # whether it ended or reset the connection
            seen.hung_up = not work.done()
            work.cancel()
            raise ConnectionResetError
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await work


# --- the table -----------------------------------------------------------------------------------------------


def make_replica(port: int, **overrides: Any) -> ReplicaRoute:
    values: dict[str, Any] = {
        "slot": f"team.tiny.abc.{port}",
        "host": "127.0.0.1",
        "port": port,
        "path": "/team.tiny.abc.0",
        "state": ReplicaState.READY,
        "concurrency": 64,
    }
    return ReplicaRoute(**(values | overrides))


def make_model(*replicas: ReplicaRoute, **overrides: Any) -> ModelRoute:
    values: dict[str, Any] = {
        "model": MODEL,
        "names": ("tiny", MODEL),
        "task": "Generate",
        "created": 1700000000,
        "availability": Availability.AVAILABLE,
        "message": "",
        "replicas": tuple(replicas),
        "objectives": ObjectiveRoute(
            ttft_milliseconds=5000, tpot_milliseconds=1000, input_tokens=512, output_tokens=256
        ),
    }
    return ModelRoute(**(values | overrides))


def make_table(*models: ModelRoute, version: int = 1) -> RouteTable:
    return RouteTable(version=version, models=models)


class Controller:
    """The fleet cycle's end of the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.reports: list[tuple[float, LoadReport]] = []
        self.closed = False
        self._task = asyncio.ensure_future(self._read(reader))

    @classmethod
    async def connect(cls, path: Path, access: AccessTable | None = EVERYBODY) -> Controller:
        controller = cls(*await asyncio.open_unix_connection(str(path)))
        if access is not None:
            controller.send(encode_access(access))
        return controller

    @property
    def last(self) -> LoadReport:
        return self.reports[-1][1]

    def send(self, line: bytes) -> None:
        self.writer.write(line)

    async def apply(self, table: RouteTable) -> None:
        before = len(self.reports)
        self.send(encode_table(table))
        await eventually(lambda: len(self.reports) > before and self.last.table_version == table.version)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = decode_line(line)
            assert isinstance(message, LoadReport)
            self.reports.append((asyncio.get_running_loop().time(), message))
        self.closed = True

    async def close(self) -> None:
        self._task.cancel()
        self.writer.close()
        await asyncio.sleep(0)


# --- the client ----------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """A response as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = True
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        found: str = self.json()["error"]["code"]
        return found


def request_bytes(
    path: str = "/v1/chat/completions",
    body: bytes | dict[str, Any] | None = None,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> bytes:
    if body is None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} if method == "POST" else b""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "gateway", **(headers or {})}
    if data or method == "POST":
        lines.setdefault("Content-Length", str(len(data)))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    return head.encode() + data


STREAMING = {"model": "tiny", "stream": True, "messages": []}


class Connection:
    """A bare HTTP/1.1 client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, *args: Any, **kwargs: Any) -> Answer:
        self.send(request_bytes(*args, **kwargs))
        return await self.answer()

    async def head(self) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (item.partition(": ") for item in rest if item)}
        return Answer(int(line.split()[1]), headers)

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """A whole answer; `complete` is False when the connection ended within it."""
        found = await self.head()
        if bodiless:
            return found
        try:
            if found.headers.get("transfer-encoding") == "chunked":
                while data := await self.piece():
                    found.pieces.append((asyncio.get_running_loop().time(), data))
                    found.body += data
            elif "content-length" in found.headers:
                found.body = await self.reader.readexactly(int(found.headers["content-length"]))
            else:
                found.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            found.body += getattr(error, "partial", b"")
            found.complete = False
        return found

    async def piece(self) -> bytes:
        """One chunk of a chunked body."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        self.writer.close()


# --- the gateway ---------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """A gateway in this process with its controller."""

    gateway: GatewayProcess
    controller: Controller
    socket: Path
    connections: list[Connection] = field(default_factory=list)

    async def connect(self, **kwargs: Any) -> Connection:
        connection = Connection(*await asyncio.open_connection(*self.gateway.address, **kwargs))
        self.connections.append(connection)
        return connection

    async def ask(self, *args: Any, **kwargs: Any) -> Answer:
        connection = await self.connect()
        try:
            return await connection.ask(*args, **kwargs)
        finally:
            connection.close()

    async def admit_by(self, access: AccessTable) -> None:
        self.controller.send(encode_access(access))
        gate = self.gateway.core.gate
        await eventually(lambda: self.gateway.core.gate is not gate)

    async def metric(self, name: str, headers: dict[str, str] | None = None) -> float:
        """The sum of a metric over its labels."""
        text = (await self.ask("/metrics", method="GET", headers=headers)).body.decode()
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


_LIMITS = {item.name for item in fields(Limits)}


@asynccontextmanager
async def running_gateway(
    folder: Path, table: RouteTable | None = None, access: AccessTable | None = EVERYBODY, **settings: Any
) -> AsyncIterator[Rig]:
    """`settings` are fields of `Limits`, or else of `Options`."""
    socket = folder / "g.sock"
    options = Options(
        host="127.0.0.1",
        port=0,
        control=socket,
        secret_file=folder / "secret",
        limits=Limits(**{name: value for name, value in settings.items() if name in _LIMITS}),
        **{name: value for name, value in settings.items() if name not in _LIMITS},
    )
    gateway = GatewayProcess(options, SECRET)
    await gateway.start()
    controller = await Controller.connect(socket, access)
    rig = Rig(gateway, controller, socket)
    try:
        if table is not None:
            await controller.apply(table)
        yield rig
    finally:
        for connection in rig.connections:
            connection.close()
        await controller.close()
        await gateway.close()


@asynccontextmanager
async def replicas(*behaviours: Behaviour | None) -> AsyncIterator[list[Upstream]]:
    found = [Upstream(behave) for behave in behaviours]
    for upstream in found:
        await upstream.start()
    try:
        yield found
    finally:
        for upstream in found:
            await upstream.stop()


@dataclass(eq=False)
class Child:
    """A process that a test started."""

    process: asyncio.subprocess.Process
    announced: str = ""

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        _children.discard(self)


_children: set[Child] = set()
"""Of the test that runs: uvloop does not close while one lives, so that a failed test would hang."""


async def end_children() -> None:
    for child in list(_children):
        await child.end()


async def start_child(*arguments: str) -> Child:
    """Starts Python with these arguments and waits for its first line. It ends with the test at the latest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    child = Child(process)
    _children.add(child)
    assert process.stdout is not None
    child.announced = (await process.stdout.readline()).decode().strip()
    return child


async def start_gateway_process(folder: Path, *flags: str) -> Child:
    (folder / "secret").write_text(SECRET)
    listen = ("--listen", "127.0.0.1:0", "--control", str(folder / "g.sock"))
    return await start_child("-m", "plinth.gateway", *listen, "--secret-file", str(folder / "secret"), *flags)


async def start_replica_process(behaviour: str) -> tuple[Child, int]:
    """A replica that can be killed; `behaviour` is an expression over the names of this module."""
    child = await start_child("-m", "plinth.tests.gateway.harness", behaviour)
    return child, int(child.announced)


async def _replica_main(behaviour: str) -> None:
    upstream = Upstream(eval(behaviour))  # noqa: S307 - the test's own text
    await upstream.start()
    print(upstream.port, flush=True)  # noqa: T201 - the announcement
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(_replica_main(sys.argv[1]))
