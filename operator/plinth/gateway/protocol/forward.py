"""Writes the request that goes to a replica. Pure."""

from __future__ import annotations

from plinth.gateway.protocol.request import Request


def upstream_prefix(*, path: str, host: str, port: int, secret: str) -> tuple[bytes, bytes]:
    """The two parts of a head that are the same for every request to a replica: up to the target, and after it."""
    name = f"[{host}]" if ":" in host else host
    before = f"POST {path}".encode()
    after = f" HTTP/1.1\r\nhost: {name}:{port}\r\nauthorization: Bearer {secret}\r\n".encode()
    return before, after


def upstream_head(prefix: tuple[bytes, bytes], request: Request, request_id: bytes) -> bytes:
    """The head of the request as a replica gets it; the body follows as it came."""
    parts = [prefix[0], request.target, prefix[1]]
    parts.extend([b"%s: %s\r\n" % item for item in request.headers])
    parts.append(b"content-length: %d\r\nx-request-id: %s\r\n\r\n" % (len(request.body), request_id))
    return b"".join(parts)
