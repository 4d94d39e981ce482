"""Real TLS handshakes, judged as of any moment: OpenSSL checks chain and name, and only the clock is ours."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from plinth.cluster.kube.certificates import Pair
from plinth.runtime.admission_server import load_pair

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME."""


class TlsServer:
    """Answers handshakes with what it was last given."""

    def __init__(self) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]

    def use(self, pair: Pair) -> None:
        load_pair(self.context, pair)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(64))
    writer.close()
    await writer.wait_closed()


async def connect(
    port: int, *, bundle: bytes, name: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that trusts the bundle, whatever the time."""
    context = ssl.create_default_context(cadata=bundle.decode())
    context.verify_flags |= NO_CHECK_TIME
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)


async def shake_hands(port: int, *, bundle: bytes, name: str, now: float) -> x509.Certificate:
    """The certificate that is served. Raises where a client that trusts the bundle would refuse it at that moment."""
    _, writer = await connect(port, bundle=bundle, name=name)
    served = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    certificate = x509.load_der_x509_certificate(served)
    store = Store(x509.load_pem_x509_certificates(bundle))
    moment = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    PolicyBuilder().store(store).time(moment).build_server_verifier(x509.DNSName(name)).verify(
        certificate, []
    )
    return certificate
