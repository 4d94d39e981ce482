"""What a cluster leaves on the machine while it runs, written down as it comes to be.

A test run may be killed at any moment. Its clusters' processes live on, so each cluster keeps a folder with a record of
whose it is and what it started; the next run ends what has lost its owner before it starts anything of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kube.processes import PATIENCE_SECONDS, Process, ProcessId, wait_until

RECORD = "record.json"


def runs_root() -> Path:
    """Where the folders of all running clusters lie."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "plinth" / "e2e"


class RunFolder:
    """A cluster's folder: its data, its keys, and the record of what must be ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started_here: list[Process] = []

    @classmethod
    def claim(cls, name: str, *, owner: ProcessId | None) -> RunFolder:
        """A new folder. Without an owner it stays until somebody ends it by hand."""
        root = runs_root()
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".", dir=root))  # no other run looks into it yet
        (draft / "logs").mkdir()
        _write(
            draft, {"owner": asdict(owner) if owner else None, "processes": [], "cgroups": [], "links": []}
        )
        path = root / f"{name}{draft.name}"
        draft.rename(path)
        return cls(path)

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def process(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> Process:
        """A process that ends with the cluster, not started yet; its log bears its name."""
        log = self.logs / f"{name}.log"
        process = Process(command, log=log, environment=environment, record=self.record_process)
        self._started_here.append(process)
        return process

    def record_process(self, process: ProcessId) -> None:
        """A process that must be ended with the cluster."""
        self._add("processes", asdict(process))

    def record_cgroup(self, path: Path) -> None:
        """A control group that must go when the processes in it are gone."""
        self._add("cgroups", str(path))

    def record_link(self, name: str) -> None:
        """A network link of this machine that must go at once: the kernel keeps a dead node's for minutes."""
        self._add("links", name)

    def is_abandoned(self) -> bool:
        """Whether the run that made it ended without ending this."""
        owner = _read(self.path)["owner"]
        return owner is not None and not ProcessId(**owner).lives()

    def end(self) -> None:
        """End everything recorded, by force: what ends in good order has ended already. Removes the folder."""
        for started in reversed(self._started_here):
            started.kill()
        record = _read(self.path)
        processes = [ProcessId(**process) for process in record["processes"]]
        for process in reversed(processes):
            process.signal(signal.SIGKILL)
        wait_until(
            lambda: not any(process.lives() for process in processes),
            seconds=PATIENCE_SECONDS,
            what="the processes of the cluster are gone",
        )
        for link in record["links"]:
            subprocess.run(
                ["ip", "link", "delete", link], capture_output=True, check=False
            )  # may be gone already
        for cgroup in record["cgroups"]:
            _remove_cgroup(Path(cgroup))
        shutil.rmtree(self.path)

    def _add(self, key: str, value: Any) -> None:
        record = _read(self.path)
        _write(self.path, {**record, key: [*record[key], value]})


def end_abandoned() -> None:
    """End every cluster whose run was killed."""
    root = runs_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:  # runs that start together would end the same ones
        fcntl.flock(lock, fcntl.LOCK_EX)
        for record in sorted(root.glob(f"*/{RECORD}")):
            if (folder := RunFolder(record.parent)).is_abandoned():
                folder.end()


def _remove_cgroup(path: Path) -> None:
    """The control group and those in it, the innermost first; the kernel may need a moment to see them empty."""

    def is_gone() -> bool:
        for folder, _, _ in os.walk(path, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                return False
        return True

    wait_until(is_gone, seconds=PATIENCE_SECONDS, what=f"{path} is empty")


def _read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


def _write(folder: Path, record: dict[str, Any]) -> None:
    draft = folder / f".{RECORD}"
    draft.write_text(json.dumps(record))
    draft.rename(folder / RECORD)
