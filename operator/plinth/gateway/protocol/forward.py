"""Writes the request that goes to a replica. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]


def upstream_prefix(*, path: str, host: str, port: int, secret: str) -> tuple[bytes, bytes]:
    """What is the same in every head for a replica: between the method and the target, and after it."""
    name = f"[{host}]" if ":" in host else host
    before = f" {path}".encode()
    after = f" HTTP/1.1\r\nhost: {name}:{port}\r\nauthorization: Bearer {secret}\r\n".encode()
    return before, after


def upstream_head(
    prefix: tuple[bytes, bytes], target: bytes, headers: Headers, *, length: int, request_id: bytes
) -> bytes:
    """The head of the request as a replica gets it; a body of so many bytes follows."""
    return b"POST%b%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n" % (
        prefix[0],
        target,
        prefix[1],
        b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers]),
        length,
        request_id,
    )


def question_head(prefix: tuple[bytes, bytes], target: str, length: int) -> bytes:
    """The head of a question of the gateway's own; without a body it is a GET."""
    method = b"POST" if length else b"GET"
    kind = b"content-type: application/json\r\ncontent-length: %d\r\n" % length if length else b""
    return b"".join((method, prefix[0], target.encode(), prefix[1], kind, b"\r\n"))
