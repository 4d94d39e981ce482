"""A hub on this machine: as much of its protocol as huggingface_hub uses to find and download a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/tiny"


class Hub:
    """One repository with one commit, and what is to go wrong with it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.gated_for: str | None = None
        """The token that may read; None: anybody may."""
        self.cut_once_after: int | None = None
        """Cut the first download of a large file after so many bytes."""
        self.hold: threading.Event | None = None
        """Downloads stop half way until this is set."""
        self.failing: Counter[str] = Counter()
        """How often each file is yet to be answered with an error."""
        self.ignores_ends = False
        """Pieces reach to the end of the file, as a simple mirror gives them."""
        self.requests: list[tuple[str, str, str | None]] = []
        """(method, path, Range header)"""
        self.tokens: list[str | None] = []

    def downloads(self, name: str) -> list[str | None]:
        """The Range headers of all downloads of a file."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{name}")]


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Be quiet."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("range")))
        self.hub.tokens.append(self.headers.get("authorization"))
        if path.startswith(f"/api/models/{REPOSITORY}"):
            self._describe(path.removeprefix(f"/api/models/{REPOSITORY}").strip("/"))
        elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            self._download(path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/"))
        else:
            self._refuse(401, "RepoNotFound")

    def _describe(self, what: str) -> None:
        files = self.hub.files
        if what in {"", "revision/main", f"revision/{COMMIT}"}:
            siblings = [
                {"rfilename": name, "size": len(content), "blobId": etag(content)}
                for name, content in files.items()
            ]
            self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif what.startswith("tree/"):
            self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
                    for name, content in files.items()
                ]
            )
        else:
            self._refuse(404, "RevisionNotFound")

    def _download(self, name: str) -> None:
        if self.hub.gated_for and self.headers.get("authorization") != f"Bearer {self.hub.gated_for}":
            self._refuse(401, "GatedRepo")
            return
        if self.hub.failing[name]:
            self.hub.failing[name] -= 1
            self._refuse(500, "Unwell")
            return
        content = self.hub.files[name]
        first, _, last = (self.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")
        start = int(first)
        content = content if self.hub.ignores_ends or not last else content[: int(last) + 1]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._send(content[start:])

    def _send(self, content: bytes) -> None:
        cut, large = self.hub.cut_once_after, len(content) > 1 << 20
        if cut is not None and large:
            self.hub.cut_once_after = None
            self.wfile.write(content[:cut])
            self.close_connection = True
            return
        if self.hub.hold is not None and large:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.hub.hold.wait(20)
            content = content[len(content) // 2 :]
        self.wfile.write(content)

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "refused")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def hub_server(hub: Hub) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client may well hang up half way
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
