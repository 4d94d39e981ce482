"""Which of Ray's processes the head watches."""

from __future__ import annotations

from pathlib import Path

from plinth.engine.ray_head import find_essential


def add_process(proc: Path, pid: int, parent: int, command: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
    (proc / str(pid) / "stat").write_text(f"{pid} (a (strange) name) S {parent} 1 1")


def test_only_its_own_children_are_watched_and_not_what_the_raylet_forks(tmp_path: Path) -> None:
    add_process(tmp_path, 11, 10, "/ray/gcs_server --log_dir=x")
    add_process(tmp_path, 12, 10, "/ray/raylet --socket=x")
    add_process(tmp_path, 13, 10, "python /ray/dashboard.py --host=x")
    add_process(tmp_path, 14, 12, "/ray/raylet --socket=x")
    add_process(tmp_path, 15, 10, "python /ray/log_monitor.py x")
    (tmp_path / "self").mkdir()
    assert find_essential(tmp_path, 10) == {11: "gcs_server", 12: "raylet", 13: "dashboard.py"}
