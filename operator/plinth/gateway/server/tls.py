"""TLS: towards clients and towards replicas, with certificates that are replaced while connections live.

Certificates are renewed on disk by others (cert-manager, a mounted Secret): files change, nobody tells us. Whoever
keeps the gateway's clock calls `refresh` every few seconds; it looks at the files' times and reads them anew only
then. What cannot be read (half written, a key that does not fit) leaves the old certificate in use, and is told.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CLIENT_PROTOCOLS: Final = ["http/1.1"]


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files. `authority` holds the certificates that the other side's must be signed by."""

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def present(self) -> list[Path]:
        """Those that are given."""
        return [path for path in (self.certificate, self.key, self.authority) if path is not None]


class Reloading:
    """A context made of files, and made again when they change."""

    def __init__(self, files: TlsFiles, make: Callable[[TlsFiles], ssl.SSLContext]) -> None:
        """Raises OSError or ssl.SSLError when the files cannot be used."""
        self._files = files
        self._make = make
        self._seen = look(files)
        self.context = make(files)

    def refresh(self) -> str | None:
        """Reads the files again if they changed. None when all is well, else why the old context stays.

        The same failure is told once: until the files change again, there is nothing new to say.
        """
        try:
            seen = look(self._files)
            if seen == self._seen:
                return None
            self._seen = seen
            self.context = self._make(self._files)
        except (OSError, ssl.SSLError) as error:
            return f"the certificate stays as it was: {error}"
        return None


class ServerTls:
    """What clients meet. Every new connection gets the newest certificate; the others keep theirs.

    A listening socket has one context for good, so that one hands each handshake over to the newest. A context
    could also be changed in place, but would then keep certificates of another key type beside the new one.
    """

    def __init__(self, files: TlsFiles) -> None:
        """With an authority, clients must show a certificate of it. Raises OSError or ssl.SSLError."""
        self._newest = Reloading(files, _server_context)
        self.context = _server_context(files)
        """For `create_server(ssl=…)`."""
        self.context.sni_callback = self._hand_over

    def refresh(self) -> str | None:
        """See `Reloading.refresh`."""
        return self._newest.refresh()

    def _hand_over(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._newest.context


class ClientTls:
    """What replicas meet: their certificates are checked, and ours is shown where there is one (mTLS)."""

    def __init__(self, files: TlsFiles, server_name: str) -> None:
        """`server_name` stands in every replica's certificate: they are reached by address, not by name."""
        if files.authority is None:
            raise ValueError("an authority is needed: without one, anybody's certificate would do")
        self.server_name = server_name
        self._newest = Reloading(files, client_context)

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection, with `server_hostname=server_name`."""
        return self._newest.context

    def refresh(self) -> str | None:
        """See `Reloading.refresh`."""
        return self._newest.refresh()


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    if files.certificate is None:
        raise ValueError("a certificate is needed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_CLIENT_PROTOCOLS)
    context.load_cert_chain(files.certificate, files.key)
    if files.authority is not None:
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Trusts the authority, or those of the system where none is named. Raises OSError or ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.authority is not None:
        context.load_verify_locations(files.authority)
    else:
        context.load_default_certs()
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


def look(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """What tells a changed file from the same: mounted Secrets are swapped by links, hence the inode. Raises OSError."""
    found = [path.stat() for path in files.present()]
    return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)
