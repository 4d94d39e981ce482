"""What the gateway costs: CPU per request and per streamed chunk, beside a bare splice proxy in the same run.

    python e2e/benchmarks/gateway.py

Load generator, mock replica, proxies: one process each, loopback, keep-alive, 1 KB prompts. CPU is read from
/proc (10 ms ticks), so it holds on a busy machine too; latencies do not and are given for orientation only.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from records import Record, installed_versions, this_command, write_records

from plinth.domain.control_lines import encode_table
from plinth.domain.traffic import (
    Availability,
    ModelRoute,
    ObjectiveRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
)

ROOT = Path(__file__).resolve().parents[2]
REQUESTS, CONNECTIONS = 12_000, 32
STREAMS, CHUNKS, CHUNK_SECONDS = 100, 120, 0.02
REPEATS = 3
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 1000}]}).encode()
STREAM_BODY = BODY[:-1] + b', "stream": true}'
ANSWER = json.dumps(
    {"choices": [{"text": "y" * 200}], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}
).encode()
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(ANSWER),
    ANSWER,
)


class Mock(asyncio.Protocol):
    """A replica that answers at once, or streams at a steady pace."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = b""
        self.left = 0

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self.buffer = b""
        if body.endswith(b"true}"):
            self.left = CHUNKS
            self.transport.write(STREAM_HEAD)
            self.stream()
        else:
            self.transport.write(WHOLE)

    def stream(self) -> None:
        if self.transport.is_closing():
            return
        self.left -= 1
        self.transport.write(CHUNK if self.left else CHUNK + b"0\r\n\r\n")
        if self.left:
            asyncio.get_running_loop().call_later(CHUNK_SECONDS, self.stream)


class Splice(asyncio.Protocol):
    """The least that a proxy can do: one connection to the replica for each client, bytes copied, nothing read."""

    target = 0

    def __init__(self, other: Splice | None = None) -> None:
        self.other = other
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if self.other is None:
            asyncio.get_running_loop().create_task(self.connect())

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(lambda: Splice(self), "127.0.0.1", self.target)
        if self.early:
            self.other.transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        if self.other is not None:
            self.other.transport.close()


class Load(asyncio.Protocol):
    """One client connection that asks again as soon as it has its answer."""

    def __init__(self, request: bytes, end: bytes, budget: list[int]) -> None:
        self.request, self.end, self.budget = request, end, budget
        self.done = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.received = 0
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.ask()

    def ask(self) -> None:
        if self.budget[0] <= 0:
            self.transport.close()
            self.done.set_result(None)
            return
        self.budget[0] -= 1
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data.count(b"data: ")
        self.tail = (self.tail + data)[-len(self.end) :]
        if self.tail == self.end:
            self.latencies.append(time.perf_counter() - self.began)
            self.tail = b""
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        if not self.done.done():
            self.done.set_exception(RuntimeError("connection lost before the answer"))


def request(body: bytes) -> bytes:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer sk\r\naccept: application/json\r\n"
        b"content-type: application/json\r\nuser-agent: bench\r\ncontent-length: %d\r\n\r\n"
    )
    return head % len(body) + body


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def drive(
    port: int, pid: int, body: bytes, end: bytes, *, count: int, connections: int
) -> tuple[float, float, int]:
    """CPU seconds of `pid`, median latency in seconds, events received."""
    loop, budget = asyncio.get_running_loop(), [count]
    before = cpu_seconds(pid)
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Load(request(body), end, budget), "127.0.0.1", port)
        clients.append(client)
    await asyncio.wait_for(asyncio.gather(*[client.done for client in clients]), 50)
    latencies = [value for client in clients for value in client.latencies]
    return cpu_seconds(pid) - before, statistics.median(latencies), sum(client.received for client in clients)


async def child(*arguments: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT / "operator",
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


def route_table(port: int) -> RouteTable:
    replica = ReplicaRoute(
        slot="a.m.r.0",
        host="127.0.0.1",
        port=port,
        path="/a.m.r.0",
        state=ReplicaState.READY,
        concurrency=512,
    )
    objectives = ObjectiveRoute(
        ttft_milliseconds=500, tpot_milliseconds=50, input_tokens=1024, output_tokens=1024
    )
    model = ModelRoute(
        model="a/m",
        names=("m", "a/m"),
        task="Generate",
        created=0,
        availability=Availability.AVAILABLE,
        message="",
        replicas=(replica,),
        objectives=objectives,
    )
    return RouteTable(version=1, models=(model,))


async def measure(folder: Path) -> list[Record]:
    me = str(Path(__file__).resolve())
    mock, mock_port = await child(me, "mock")
    splice, splice_port = await child(me, "splice", mock_port)
    (folder / "secret").write_text("s")
    flags = ("--control", str(folder / "c.sock"), "--secret-file", str(folder / "secret"))
    gateway, announced = await child("-m", "plinth.gateway", "--listen", "127.0.0.1:0", *flags)
    try:
        reader, writer = await asyncio.open_unix_connection(str(folder / "c.sock"))
        writer.write(encode_table(route_table(int(mock_port))))
        while json.loads(await reader.readline())["table_version"] != 1:
            pass
        gateway_port = json.loads(announced)["listening"].rpartition(":")[2]
        ports = {
            "gateway": (int(gateway_port), gateway.pid),
            "splice": (int(splice_port), splice.pid),
        }
        direct = (await drive(int(mock_port), mock.pid, BODY, ANSWER, count=4000, connections=CONNECTIONS))[1]
        per_request: dict[str, list[float]] = {name: [] for name in ports}
        per_chunk: dict[str, list[float]] = {name: [] for name in ports}
        latency: dict[str, float] = {}
        for _ in range(REPEATS):
            for name, (port, pid) in ports.items():
                cpu, latency[name], _ = await drive(
                    port, pid, BODY, ANSWER, count=REQUESTS, connections=CONNECTIONS
                )
                per_request[name].append(cpu / REQUESTS * 1e6)
                cpu, _, events = await drive(
                    port, pid, STREAM_BODY, b"0\r\n\r\n", count=STREAMS, connections=STREAMS
                )
                assert events == STREAMS * CHUNKS, "chunks were lost"
                per_chunk[name].append(cpu / events * 1e6)
        rss = rss_mib(gateway.pid)
        writer.close()
    finally:
        for process in (gateway, splice, mock):
            process.terminate()
        await asyncio.gather(*[process.wait() for process in (gateway, splice, mock)])
    return records(per_request, per_chunk, rss, {**latency, "direct": direct})


def records(
    per_request: dict[str, list[float]],
    per_chunk: dict[str, list[float]],
    rss: float,
    latency: dict[str, float],
) -> list[Record]:
    versions = installed_versions("uvloop", "httptools", "msgspec")
    made = []
    for metric, found, goal in (
        ("gateway_cpu_microseconds_per_request", per_request, "<=60"),
        ("gateway_cpu_microseconds_per_chunk", per_chunk, "<=35"),
    ):
        peers: dict[str, object] = {
            "splice_proxy": round(statistics.median(found["splice"]), 1),
            "repeats": {name: [round(value, 1) for value in values] for name, values in found.items()},
        }
        if found is per_request:
            peers["latency_p50_microseconds"] = {name: round(value * 1e6) for name, value in latency.items()}
        value = round(statistics.median(found["gateway"]), 1)
        made.append(
            Record(
                metric=metric,
                value=value,
                unit="us",
                goal=goal,
                peers=peers,
                versions=versions,
                command=this_command(),
            )
        )
    made.append(
        Record(
            metric="gateway_rss_mib",
            value=round(rss, 1),
            unit="MiB",
            goal="<=60",
            peers={},
            versions=versions,
            command=this_command(),
        )
    )
    return made


async def serve(make: type[asyncio.Protocol]) -> None:
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    match sys.argv[1:]:
        case ["mock"]:
            uvloop.run(serve(Mock))
        case ["splice", port]:
            Splice.target = int(port)
            uvloop.run(serve(Splice))
        case _:
            with tempfile.TemporaryDirectory() as folder:
                write_records("gateway", uvloop.run(measure(Path(folder))))


if __name__ == "__main__":
    main()
