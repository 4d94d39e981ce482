"""The state directory: private, one `up` a folder, and instances that are only those that run."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plinth.cluster.state_dir import (
    MAX_SOCKET_PATH_BYTES,
    AlreadyRunningError,
    Instance,
    ProcessRef,
    StateDir,
    UnsafeStateError,
    find_instances,
    state_home,
)

HOLD_LOCK = """
import sys, time
from pathlib import Path
from plinth.cluster.state_dir import StateDir
lock = StateDir.for_folder(Path(sys.argv[1])).acquire_lock()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "state"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def state(folder: Path) -> StateDir:
    found = StateDir.for_folder(folder)
    found.create()
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def sleeping_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def instance(folder: Path, pid: int) -> Instance:
    return Instance(
        folder=str(folder),
        endpoint="http://127.0.0.1:8000",
        ray_address="http://127.0.0.1:8265",
        processes=(ProcessRef.of("up", pid),),
        started_at=1.5,
    )


def test_a_folder_has_one_state_whichever_way_it_is_named(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    roots = {StateDir.for_folder(path).root for path in (folder, link, Path(), folder / ".." / "models")}
    (root,) = roots
    assert root.parent == home / "plinth"
    assert len(root.name) == 8
    assert int(root.name, 16) >= 0
    assert StateDir.for_folder(folder.parent).root != root


@pytest.mark.parametrize("value", ["", "relative/path", None])
def test_the_home_folder_holds_the_state_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    if value is not None:
        monkeypatch.setenv("XDG_STATE_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert state_home() == Path("/home/someone/.local/state/plinth")


def test_naming_a_state_makes_nothing(folder: Path, home: Path) -> None:
    StateDir.for_folder(folder)
    assert not home.exists()
    assert find_instances() == []


def test_the_state_is_for_its_owner_alone(state: StateDir) -> None:
    assert (mode(state.root), mode(state.logs)) == (0o700, 0o700)
    state.root.chmod(0o755)
    state.create()
    assert mode(state.root) == 0o700


def test_a_link_in_the_state_s_place_is_refused(folder: Path, tmp_path: Path) -> None:
    state = StateDir.for_folder(folder)
    state.root.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    state.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeStateError, match="not a folder of your own"):
        state.create()


class TestLock:
    def test_a_second_up_is_told_who_holds_the_folder(self, state: StateDir) -> None:
        with state.acquire_lock(), pytest.raises(AlreadyRunningError) as caught:
            state.acquire_lock()
        assert (caught.value.pid, caught.value.folder) == (os.getpid(), state.folder)
        assert f"plinth up already runs on {state.folder} (process {os.getpid()})" in str(caught.value)

    def test_the_lock_is_free_again_after_a_release(self, state: StateDir) -> None:
        lock = state.acquire_lock()
        lock.release()
        lock.release()
        state.acquire_lock().release()

    def test_another_folder_is_another_lock(self, state: StateDir, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        other = StateDir.for_folder(tmp_path / "other")
        other.create()
        with state.acquire_lock(), other.acquire_lock():
            pass

    def test_the_lock_goes_with_its_process_however_that_one_ends(self, state: StateDir) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD_LOCK, str(state.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(AlreadyRunningError) as caught:
                state.acquire_lock()
            assert caught.value.pid == process.pid
            process.kill()
            process.wait()
            state.acquire_lock().release()

    def test_the_lock_is_not_passed_on_to_children(self, state: StateDir) -> None:
        lock = state.acquire_lock()
        with sleeping_process():
            lock.release()
            state.acquire_lock().release()


class TestSecrets:
    def test_the_secret_is_made_once_and_kept(self, state: StateDir) -> None:
        secret = state.ensure_secret()
        assert len(secret) >= 32
        assert secret == state.ensure_secret() == state.secret_file.read_text()
        assert mode(state.secret_file) == 0o600
        assert state.ensure_ray_token() != secret

    @pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe" * 40])
    def test_a_secret_that_cannot_be_one_is_made_anew(self, state: StateDir, content: bytes) -> None:
        state.secret_file.write_bytes(content)
        secret = state.ensure_secret()
        assert len(secret) >= 32
        assert state.ensure_secret() == secret
        assert mode(state.secret_file) == 0o600

    def test_a_mode_that_was_loosened_is_tightened(self, state: StateDir) -> None:
        state.ensure_secret()
        state.secret_file.chmod(0o644)
        state.ensure_secret()
        assert mode(state.secret_file) == 0o600

    def test_no_half_written_file_is_left(self, state: StateDir) -> None:
        state.ensure_secret()
        assert sorted(path.name for path in state.root.iterdir()) == ["logs", "secret"]


class TestInstances:
    def test_what_was_written_is_read(self, state: StateDir) -> None:
        written = instance(state.folder, os.getpid())
        state.write_instance(written)
        assert state.read_instance() == written
        assert mode(state.instance_file) == 0o600
        state.remove_instance()
        state.remove_instance()
        assert state.read_instance() is None

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"folder": 5}', b"\xff"])
    def test_a_record_that_cannot_be_read_is_none(self, state: StateDir, content: bytes) -> None:
        state.instance_file.write_bytes(content)
        assert state.read_instance() is None
        assert find_instances() == []

    def test_only_those_that_run_are_found(self, tmp_path: Path) -> None:
        with sleeping_process() as gone:
            for name, pid in [("b", os.getpid()), ("a", os.getpid()), ("c", gone.pid)]:
                (tmp_path / name).mkdir()
                state = StateDir.for_folder(tmp_path / name)
                state.create()
                state.write_instance(instance(state.folder, pid))
            assert [Path(found.folder).name for found in find_instances()] == ["a", "b", "c"]
        assert [Path(found.folder).name for found in find_instances()] == ["a", "b"]

    def test_a_process_is_not_another_one_that_has_its_pid(self) -> None:
        real = ProcessRef.of("up", os.getpid())
        assert real.is_running()
        assert not ProcessRef("up", real.pid, real.start_ticks - 1).is_running()

    def test_a_zombie_does_not_run(self) -> None:
        with sleeping_process() as process:
            reference = ProcessRef.of("gateway", process.pid)
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet collected
            assert not reference.is_running()

    def test_a_process_that_is_not_there_cannot_be_recorded(self) -> None:
        with sleeping_process() as process:
            pass
        with pytest.raises(ProcessLookupError):
            ProcessRef.of("up", process.pid)

    def test_a_record_without_up_is_not_running(self, state: StateDir) -> None:
        record = Instance(
            folder="/", endpoint="", ray_address="", processes=(ProcessRef.of("gateway", os.getpid()),)
        )
        state.write_instance(record)
        assert find_instances() == []
        assert record.process("gateway") is not None

    def test_a_reader_never_sees_half_a_record(self, state: StateDir) -> None:
        record = instance(state.folder, os.getpid())
        state.write_instance(record)
        done = threading.Event()

        def rewrite() -> None:
            while not done.is_set():
                state.write_instance(record)

        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            assert all(state.read_instance() == record for _ in range(200))
        finally:
            done.set()
            writer.join()


class TestSocket:
    def test_it_lies_in_the_state_where_that_is_short_enough(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", "/s")
        state = StateDir.for_folder(folder)
        assert state.gateway_socket == state.root / "gateway.sock"
        assert state.plan_socket == state.root / "plan.sock"

    @pytest.mark.parametrize("which", ["gateway_socket", "plan_socket"])
    @pytest.mark.parametrize("runtime", [None, "short", "long"])
    def test_its_path_is_never_too_long_for_the_kernel(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str | None, which: str
    ) -> None:
        deep = tmp_path / ("d" * 100)
        monkeypatch.setenv("XDG_STATE_HOME", str(deep))
        if runtime is not None:
            place = Path("/tmp") if runtime == "short" else deep  # noqa: S108 - a short path is the point
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        state = StateDir.for_folder(folder)
        state.create()
        path: Path = getattr(state, which)
        assert len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES
        assert mode(path.parent) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        path.unlink()
        with contextlib.suppress(OSError):  # somebody else's socket may be beside it
            path.parent.rmdir()

    def test_two_folders_never_share_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("d" * 100)))
        sockets = {StateDir.for_folder(tmp_path / name).gateway_socket for name in ("a", "b")}
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("e" * 100)))
        sockets.add(StateDir.for_folder(tmp_path / "a").gateway_socket)
        assert len(sockets) == 3
