"""TLS with real handshakes on uvloop: certificates replaced under way, both sides checked."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from plinth.gateway.server.tls import ClientTls, ServerTls, TlsFiles
from plinth.tests.gateway.harness import scenario

NAME = "replica.plinth.internal"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """Signs certificates and writes them where they are wanted."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key: Key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._subject, self._key, is_authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, folder: Path, name: str, key: Key | None = None) -> TlsFiles:
        """Writes `tls.crt` and `tls.key`, replacing what is there."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        folder.mkdir(exist_ok=True)
        for path, content in (
            (folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM)),
            (
                folder / "tls.key",
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                ),
            ),
        ):
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.replace(path)
        return TlsFiles(certificate=folder / "tls.crt", key=folder / "tls.key")

    def _sign(self, subject: x509.Name, key: Key, *, is_authority: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName(
            [x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def with_authority(files: TlsFiles, authority: Authority) -> TlsFiles:
    return TlsFiles(certificate=files.certificate, key=files.key, authority=authority.path)


@asynccontextmanager
async def echoing(tls: ServerTls) -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()
        except (ssl.SSLError, ConnectionError):
            writer.transport.abort()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls.context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Talk:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def says(self) -> bool:
        self._writer.write(b"hello")
        return await self._reader.readexactly(5) == b"hello"

    def peer(self) -> str:
        """The common name of the server's certificate."""
        handshake: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        certificate = x509.load_der_x509_certificate(handshake.getpeercert(binary_form=True) or b"")
        return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    def protocol(self) -> str | None:
        handshake: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return handshake.selected_alpn_protocol()

    async def close(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)


async def connect(port: int, context: ssl.SSLContext, name: str | None = NAME) -> Talk:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    return Talk(reader, writer)


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.path)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@scenario
async def test_new_connections_get_a_renewed_certificate_and_old_ones_go_on(
    tmp_path: Path, authority: Authority
) -> None:
    tls = ServerTls(authority.issue(tmp_path / "server", "first"))
    async with echoing(tls) as port:
        before = await connect(port, trusting(authority))
        authority.issue(tmp_path / "server", "second")
        assert tls.refresh() is None
        after = await connect(port, trusting(authority))
        assert (before.peer(), after.peer()) == ("first", "second")
        assert await before.says()
        assert await after.says()
        assert after.protocol() == "http/1.1"
        await before.close()
        await after.close()


@scenario
async def test_a_client_that_names_no_server_gets_the_renewed_certificate_too(
    tmp_path: Path, authority: Authority
) -> None:
    tls = ServerTls(authority.issue(tmp_path / "server", "first"))
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.check_hostname = False
    nameless.load_verify_locations(authority.path)
    async with echoing(tls) as port:
        authority.issue(tmp_path / "server", "second")
        tls.refresh()
        talk = await connect(port, nameless, None)
        assert talk.peer() == "second"
        await talk.close()


@scenario
async def test_another_kind_of_key_leaves_nothing_of_the_old_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    old = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tls = ServerTls(authority.issue(tmp_path / "server", "first", old))
    authority.issue(tmp_path / "server", "second")
    tls.refresh()
    only_rsa = trusting(authority)
    only_rsa.maximum_version = ssl.TLSVersion.TLSv1_2
    only_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    async with echoing(tls) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(port, only_rsa)


@scenario
async def test_a_key_that_does_not_fit_leaves_the_old_certificate_and_is_told_once(
    tmp_path: Path, authority: Authority
) -> None:
    files = authority.issue(tmp_path / "server", "first")
    tls = ServerTls(files)
    authority.issue(tmp_path / "other", "other")
    (tmp_path / "other" / "tls.key").replace(tmp_path / "server" / "tls.key")
    told = tls.refresh()
    assert told is not None
    assert "stays as it was" in told
    assert tls.refresh() is None
    async with echoing(tls) as port:
        talk = await connect(port, trusting(authority))
        assert talk.peer() == "first"
        await talk.close()
    authority.issue(tmp_path / "server", "second")
    assert tls.refresh() is None
    async with echoing(tls) as port:
        talk = await connect(port, trusting(authority))
        assert talk.peer() == "second"
        await talk.close()


def test_a_file_that_is_gone_for_a_moment_is_told_and_changes_nothing(
    tmp_path: Path, authority: Authority
) -> None:
    files = authority.issue(tmp_path / "server", "first")
    tls = ServerTls(files)
    assert files.certificate is not None
    files.certificate.unlink()
    assert tls.refresh() is not None


@scenario
async def test_both_sides_show_certificates_and_a_stranger_is_refused(
    tmp_path: Path, authority: Authority
) -> None:
    server = ServerTls(with_authority(authority.issue(tmp_path / "server", "replica"), authority))
    client = ClientTls(with_authority(authority.issue(tmp_path / "client", "gateway"), authority), NAME)
    stranger = Authority(tmp_path, "stranger")
    shown = stranger.issue(tmp_path / "stranger", "stranger")
    strange = ClientTls(with_authority(shown, authority), NAME)
    async with echoing(server) as port:
        talk = await connect(port, client.context, client.server_name)
        assert await talk.says()
        await talk.close()
        for context in (strange.context, trusting(authority)):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                # In TLS 1.3 the client learns of its refusal with the first bytes it reads.
                await (await connect(port, context)).says()


@scenario
async def test_a_renewed_authority_is_what_clients_are_checked_by(
    tmp_path: Path, authority: Authority
) -> None:
    files = with_authority(authority.issue(tmp_path / "server", "replica"), authority)
    server = ServerTls(files)
    successor = Authority(tmp_path, "successor")
    client = ClientTls(with_authority(successor.issue(tmp_path / "client", "gateway"), authority), NAME)
    successor.path.replace(authority.path)
    server.refresh()
    async with echoing(server) as port:
        talk = await connect(port, client.context, client.server_name)
        assert await talk.says()
        await talk.close()


@scenario
async def test_a_replica_with_a_strangers_certificate_or_another_name_is_refused(
    tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority(tmp_path, "stranger")
    client = ClientTls(with_authority(authority.issue(tmp_path / "client", "gateway"), authority), NAME)
    async with echoing(ServerTls(stranger.issue(tmp_path / "strange", "replica"))) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(port, client.context, client.server_name)
    async with echoing(ServerTls(authority.issue(tmp_path / "server", "replica"))) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(port, client.context, "another.name")


def test_replicas_are_never_trusted_without_an_authority(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(ValueError, match="authority"):
        ClientTls(authority.issue(tmp_path / "client", "gateway"), NAME)


def test_a_server_without_files_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ServerTls(TlsFiles(certificate=tmp_path / "absent.crt"))
