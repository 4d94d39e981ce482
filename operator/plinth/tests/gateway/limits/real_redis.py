"""A real Redis on a free port, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from plinth.gateway.server.redis import RedisAddress, RedisConnection, connect_to_redis
from plinth.gateway.server.tls import TlsFiles


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RealRedis:
    """Keeps nothing on disk: what it knew is gone when it is killed."""

    def __init__(self, folder: Path, tls: TlsFiles | None = None) -> None:
        """With `tls` it speaks nothing else, shows this certificate and asks for one of its authority."""
        self.address = RedisAddress("127.0.0.1", free_port(), tls=tls)
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "redis-server",
            *self._listening(),
            *("--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "no"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    connection = await self.connect()
                    await connection.ask(b"PING")
                    connection.close()
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    return

    async def connect(self) -> RedisConnection:
        return await connect_to_redis(self.address, lambda: None, 1.0)

    def _listening(self) -> tuple[str, ...]:
        port, tls = str(self.address.port), self.address.tls
        if tls is None:
            return "--port", port
        files = (
            "--tls-cert-file",
            tls.certificate,
            "--tls-key-file",
            tls.key,
            "--tls-ca-cert-file",
            tls.authority,
        )
        return "--port", "0", "--tls-port", port, *map(str, files)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def running_redis(folder: Path, tls: TlsFiles | None = None) -> AsyncIterator[RealRedis]:
    redis = RealRedis(folder, tls)
    await redis.start()
    try:
        yield redis
    finally:
        await redis.kill()
