"""The two images that a node has, written by hand: a cluster of tests asks no registry.

`PAUSE` holds a pod's namespaces. `HOST` is an empty root into which a pod mounts this machine's programs (see
`host_python`): what tests run in pods is then what they run beside them.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

PAUSE = "plinth.test/pause:1"
HOST = "plinth.test/host:1"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EMPTY_FOLDERS = ("dev", "etc", "home", "opt", "proc", "root", "run", "sys", "usr", "var")
LINKED_FOLDERS = ("bin", "sbin", "lib", "lib64")
"""On a machine of today these lead into /usr: in the image too."""
USERS = (("root", 0), ("ray", 1000), ("plinth", 10001), ("nobody", 65534))
EXECUTABLE, WORLD_WRITABLE = 0o755, 0o1777


def write_images(archive: Path, *, pause: Path) -> None:
    """Write both images into an archive as `ctr images import` reads it."""
    with tarfile.open(archive, "w") as out:
        manifest = [
            _add_image(out, PAUSE, _pause_layer(pause), {"Entrypoint": ["/pause"]}),
            _add_image(out, HOST, _host_layer(), {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}),
        ]
        _add_file(out, "manifest.json", json.dumps(manifest).encode())


def _add_image(out: tarfile.TarFile, reference: str, layer: bytes, config: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(layer).hexdigest()
    description = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "plinth e2e"}],
        }
    ).encode()
    name = f"{hashlib.sha256(description).hexdigest()}.json"
    _add_file(out, f"{digest}.tar", layer)
    _add_file(out, name, description)
    return {"Config": name, "RepoTags": [reference], "Layers": [f"{digest}.tar"]}


def _pause_layer(program: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        _add_file(layer, "pause", program.read_bytes(), mode=EXECUTABLE)
    return content.getvalue()


def _host_layer() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for folder in EMPTY_FOLDERS:
            _add_folder(layer, folder)
        for folder in ("tmp", "var/tmp"):
            _add_folder(layer, folder, mode=WORLD_WRITABLE)
        for link in LINKED_FOLDERS:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
            layer.addfile(entry)
        users = "".join(f"{name}:x:{number}:{number}::/tmp:/bin/sh\n" for name, number in USERS)
        groups = "".join(f"{name}:x:{number}:\n" for name, number in USERS)
        _add_file(layer, "etc/passwd", users.encode())
        _add_file(layer, "etc/group", groups.encode())
    return content.getvalue()


def _add_folder(archive: tarfile.TarFile, name: str, *, mode: int = EXECUTABLE) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
