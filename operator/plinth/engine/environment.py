"""A home for what engines and their libraries write beside the model: caches, kernels compiled here, settings.

In a pod the user has no entry in /etc/passwd, HOME is missing or read-only, and only the cache and /tmp can be written.
vLLM, torch, Triton, FlashInfer, numba and the hub's client each have a variable for their own folder, and each puts it
below HOME or XDG_CACHE_HOME unless told otherwise. So a home that works serves them all, and those that come later.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def give_home(cache_dir: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Where HOME cannot be written, make one in the cache, for this process and all that it starts."""
    if not _is_writable(environment.get("HOME")):
        home = cache_dir / "home"
        home.mkdir(parents=True, exist_ok=True)
        environment["HOME"] = str(home)
    for name in _FOLDERS:
        if name in environment and not _is_writable(environment[name]):
            del environment[name]  # its default is below HOME
    # torch asks for the user's name to name a folder in /tmp, and fails for a user that has no entry. Two of them must
    # not meet in one folder.
    environment.setdefault("USER", f"plinth-{os.getuid()}")


def _is_writable(folder: str | None) -> bool:
    """Whether the folder can be written, or made where it is not there yet."""
    if not folder:
        return False
    path = Path(folder)
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK | os.X_OK)
