"""The folder that holds what `plinth up` must not forget: its lock, secrets, status, socket, and who runs.

One for each watched folder, outside of it, so that the watched folder may be read-only and under version
control. Everything in it is for its owner's eyes only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from plinth.cluster.processes import process_started_at

MIN_SECRET_CHARACTERS = 32
MAX_SOCKET_PATH_BYTES = 100
"""The kernel's own limit is 107 on Linux and 103 elsewhere."""
_OWNER_ONLY = 0o700


class AlreadyRunningError(RuntimeError):
    """Another `plinth up` holds the folder; `pid` is 0 where it could not be told."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder
        who = f" (process {pid})" if pid else ""
        super().__init__(
            f"plinth up already runs on {folder}{who}; stop that one first, or use another folder"
        )


class UnsafeStateError(RuntimeError):
    """The state folder is not the user's own, so no secret may be put there."""


class ProcessRef(msgspec.Struct, frozen=True):
    """A process that is still the same one only while its start time is."""

    role: str
    """`up`, `gateway`, `ray`."""
    pid: int
    start_ticks: int
    """When it started, in the kernel's clock ticks since boot."""

    @classmethod
    def of(cls, role: str, pid: int) -> ProcessRef:
        """The process that has this pid now. Raises ProcessLookupError."""
        start = process_started_at(pid)
        if start is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(role, pid, start)

    def is_running(self) -> bool:
        """Whether this very process still runs; a zombie does not, nor does another one with its pid."""
        return process_started_at(self.pid) == self.start_ticks


class Instance(msgspec.Struct, frozen=True):
    """One running `plinth up`, for `plinth status` and for the next `up` that takes over its gateway."""

    folder: str
    """The watched folder as the user named it, made absolute."""
    endpoint: str
    """The OpenAI API's base URL, as in `http://127.0.0.1:8000/v1`."""
    ray_address: str
    """Ray's dashboard."""
    listen: str = ""
    """HOST:PORT that the gateway was told to listen on."""
    processes: tuple[ProcessRef, ...] = ()
    started_at: float = 0.0
    """Unix seconds."""

    def process(self, role: str) -> ProcessRef | None:
        """The process in this role, running or not."""
        return next((process for process in self.processes if process.role == role), None)

    def is_running(self) -> bool:
        """Whether its `plinth up` runs."""
        process = self.process("up")
        return process is not None and process.is_running()


class FolderLock:
    """Held by one `plinth up` while it runs; the kernel lets go of it however that one ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; harmless the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True)
class StateDir:
    """The state of one watched folder. Nothing is made on disk before `create`."""

    folder: Path
    """The watched folder, its links resolved."""
    root: Path

    @classmethod
    def for_folder(cls, folder: Path) -> StateDir:
        """The state of a watched folder, the same whichever way the folder is named."""
        real = Path(os.path.realpath(folder.expanduser()))
        digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:8]
        return cls(real, state_home() / digest)

    @property
    def lock_file(self) -> Path:
        """Locked while `plinth up` runs; holds its pid."""
        return self.root / "lock"

    @property
    def secret_file(self) -> Path:
        """What the gateway shows to engines."""
        return self.root / "secret"

    @property
    def ray_token_file(self) -> Path:
        """What Ray asks of its clients."""
        return self.root / "ray_token"

    @property
    def status_db(self) -> Path:
        """Last good resources and statuses."""
        return self.root / "status.db"

    @property
    def keys_db(self) -> Path:
        """API keys, of which only hashes are kept."""
        return self.root / "keys.db"

    @property
    def instance_file(self) -> Path:
        """Who runs, where."""
        return self.root / "instance.json"

    @property
    def logs(self) -> Path:
        """Logs of the processes that `plinth up` starts."""
        return self.root / "logs"

    @property
    def gateway_socket(self) -> Path:
        """The gateway's control socket; elsewhere if its path were too long for the kernel."""
        socket = self.root / "gateway.sock"
        if len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES:
            return socket
        return _runtime_home() / f"{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]}.sock"

    @property
    def plan_socket(self) -> Path:
        """Where `plinth up` is asked for plans: beside the gateway's."""
        beside = self.gateway_socket
        return beside.with_name("plan.sock" if beside.parent == self.root else f"plan-{beside.name}")

    def create(self) -> None:
        """Make the folders, for the owner alone. Raises UnsafeStateError or OSError."""
        for path in (self.root, self.logs, self.gateway_socket.parent):
            _make_private(path)

    def acquire_lock(self) -> FolderLock:
        """Become the one `plinth up` of this folder. Raises AlreadyRunningError."""
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise AlreadyRunningError(int(holder) if holder.isdecimal() else 0, self.folder) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return FolderLock(descriptor)

    def ensure_secret(self) -> str:
        """The gateway's secret, made on first use and kept, so that engines outlive a restart."""
        return _ensure_secret(self.secret_file)

    def ensure_ray_token(self) -> str:
        """Ray's token, made on first use and kept."""
        return _ensure_secret(self.ray_token_file)

    def write_instance(self, instance: Instance) -> None:
        """Record who runs; a reader sees the old record or the new one, never half of it."""
        _write_private(self.instance_file, msgspec.json.encode(instance))

    def read_instance(self) -> Instance | None:
        """The last record, of a running `up` or of one that is gone; None without a readable one."""
        return _read_instance(self.instance_file)

    def remove_instance(self) -> None:
        """Forget who ran, once it has stopped."""
        self.instance_file.unlink(missing_ok=True)


def state_home() -> Path:
    """Where the state of all folders lies: `$XDG_STATE_HOME/plinth`, else `~/.local/state/plinth`."""
    home = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules: a path that is not absolute counts as unset.
    base = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state"
    return base / "plinth"


def find_instances() -> list[Instance]:
    """Every `plinth up` of this user that runs now, by folder."""
    found = (_read_instance(path) for path in state_home().glob("*/instance.json"))
    return sorted(
        (instance for instance in found if instance is not None and instance.is_running()),
        key=lambda instance: instance.folder,
    )


def _read_instance(path: Path) -> Instance | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Instance)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _runtime_home() -> Path:
    """A short folder for sockets: `$XDG_RUNTIME_DIR/plinth`, or one of the user's own under /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    longest = MAX_SOCKET_PATH_BYTES - len("/plinth/") - len("plan-0123456789abcdef.sock")
    if Path(runtime).is_absolute() and len(os.fsencode(runtime)) <= longest:
        return Path(runtime) / "plinth"
    return Path("/tmp") / f"plinth-{os.getuid()}"  # noqa: S108 - owner and mode are checked before use


def _make_private(path: Path) -> None:
    """Make a folder that only its owner may enter; refuse one that somebody else made."""
    path.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UnsafeStateError(
            f"{path} is not a folder of your own; remove it or set XDG_STATE_HOME elsewhere"
        )
    if stat.S_IMODE(found.st_mode) != _OWNER_ONLY:
        path.chmod(_OWNER_ONLY)


def _ensure_secret(path: Path) -> str:
    try:
        kept = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if len(kept) >= MIN_SECRET_CHARACTERS:
        path.chmod(0o600)
        return kept
    fresh = secrets.token_urlsafe(MIN_SECRET_CHARACTERS)
    _write_private(path, fresh.encode())
    return fresh


def _write_private(path: Path, data: bytes) -> None:
    """Put a file in place in one step, readable by its owner alone (mkstemp's own mode)."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
