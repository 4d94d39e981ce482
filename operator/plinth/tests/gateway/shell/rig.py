"""A gateway as a process, a replica in a thread, a client of bare sockets: all that can be done to a real port."""

from __future__ import annotations

import os
import re
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from plinth.domain.access import AccessTable
from plinth.domain.control_lines import encode_access, encode_table
from plinth.tests.gateway.harness import SECRET, make_model, make_replica, make_table

ROOT = Path(__file__).parents[4]
PATIENCE_SECONDS = 15.0
"""Longer than anything here may take; the tests' own limits are stated where they matter."""
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def raise_file_limit() -> None:
    """As many sockets as the machine lets this process, and the gateways that it starts, have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.01)


# --- the replica ---------------------------------------------------------------------------------------------


@dataclass
class Got:
    """A request as it reached the replica: read by nothing but its own Content-Length."""

    head: bytes
    body: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.head.lower().split(b"\r\n")


Say = Callable[[socket.socket], None]


@dataclass
class Replica:
    """Answers every request with `say`; takes one thread a connection."""

    listener: socket.socket
    say: Say = lambda connection: connection.sendall(WHOLE)
    got: list[Got] = field(default_factory=list)
    hung_up: int = 0
    """Connections that ended while an answer was being given, or before the next request."""

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while head := _read_head(stream.readline):
                    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head.lower())
                    body = stream.read(int(length[1])) if length else b""
                    self.got.append(Got(head, body))
                    self.say(connection)
        except OSError:
            pass
        finally:
            self.hung_up += 1


def _read_head(readline: Callable[[], bytes]) -> bytes:
    lines = []
    while line := readline():
        lines.append(line)
        if line == b"\r\n":
            break
    return b"".join(lines)


@contextmanager
def replica() -> Iterator[Replica]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        found = Replica(listener)
        threading.Thread(target=found.serve, daemon=True).start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)


# --- the client ----------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """An answer."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def code(self) -> str:
        """Of a refusal; its body must be sound JSON in OpenAI's shape."""
        found: str = msgspec.json.decode(self.body)["error"]["code"]
        return found


class Client:
    """One connection."""

    def __init__(
        self, address: tuple[str, int], *, window: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket = socket.socket()
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Piece by piece; a gateway that has hung up is no error here."""
        for piece in pieces:
            try:
                self.socket.sendall(piece)
            except OSError:
                return

    def ask(self, data: bytes) -> Heard:
        self.send(data)
        found = self.hear()
        assert found is not None
        return found

    def hear(self) -> Heard | None:
        """The next answer, framed by a Content-Length as every whole one of the gateway's is; None at the end."""
        while b"\r\n\r\n" not in self._unread:
            if not self._read():
                assert not self._unread, f"a piece of an answer: {self._unread!r}"
                return None
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        line, *rest = head.split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(b": ") for each in rest)}
        status = int(line.split()[1])
        if status == 100:
            return self.hear()
        length = int(headers[b"content-length"])
        while len(self._unread) < length:
            assert self._read(), "the answer is shorter than it says"
        body, self._unread = self._unread[:length], self._unread[length:]
        return Heard(status, headers, body)

    def hear_all(self) -> list[Heard]:
        """Every answer until the gateway hangs up."""
        return list(iter(self.hear, None))

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the gateway hangs up in that time, whatever it says before."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def reset(self) -> None:
        """Ends without a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def _read(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._unread += data
        return bool(data)


BODY = b'{"model":"tiny","prompt":"a"}'


def post(body: bytes = BODY, *headers: bytes, path: bytes = b"/v1/completions") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: a", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"

# --- the gateway ---------------------------------------------------------------------------------------------


@dataclass
class Gateway:
    """One process."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    tls: ssl.SSLContext | None = None
    """What clients speak, where it speaks TLS."""

    def connect(self, *, window: int | None = None) -> Client:
        return Client(self.address, window=window, tls=self.tls)

    def ask(self, data: bytes) -> Heard:
        with self.connect() as client:
            return client.ask(data)

    def memory_mib(self) -> float:
        """Resident now, of the process and those that it started."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, "the gateway has ended"
        return int(found[1]) / 1024

    def cpu_seconds(self) -> float:
        """Used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def work_before_an_answer(self, data: bytes) -> float:
        """CPU seconds that it spends, on whatever else, until a newcomer has an answer.

        Tells how long others wait, and is the same on a busy machine.
        """
        before = self.cpu_seconds()
        assert self.ask(data).status == 200
        return self.cpu_seconds() - before

    def gauge(self, name: str) -> float:
        """A metric, summed over its labels."""
        text = self.ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").body.decode()
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, lines))

    def is_at_rest(self) -> bool:
        """Whether nothing of any request is left, but for the connection that asks."""
        return (
            self.gauge("plinth_gateway_connections") == 1
            and self.gauge("plinth_gateway_in_flight_requests") == 0
            and self.gauge("plinth_gateway_queued_requests") == 0
            and self.gauge("plinth_gateway_held_body_bytes") == 0
        )


@contextmanager
def gateway(folder: Path, port: int, *flags: str) -> Iterator[Gateway]:
    """Serves the model `tiny` from the replica at this port, to whoever asks."""
    (folder / "secret").write_text(SECRET)
    control = folder / "control.sock"
    command = [sys.executable, "-m", "plinth.gateway", "--listen", "127.0.0.1:0", "--control", str(control)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--secret-file", str(folder / "secret"), *flags],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
    try:
        assert process.stdout is not None
        host, _, listening = msgspec.json.decode(process.stdout.readline())["listening"].rpartition(":")
        _tell(control, port)
        yield Gateway(process, (host, int(listening)))
        assert process.poll() is None, "the gateway has ended"
        told = (folder / "log").read_text()
        assert "Traceback" not in told, told[-3000:]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _tell(control: Path, port: int) -> None:
    """Gives the gateway its tables and waits until it says that it has them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(control))
        table = make_table(make_model(make_replica(port, concurrency=4096)))
        connection.sendall(encode_access(AccessTable(version=1, requires_key=False)) + encode_table(table))
        with connection.makefile("rb") as reports:
            while msgspec.json.decode(reports.readline())["table_version"] != table.version:
                pass
