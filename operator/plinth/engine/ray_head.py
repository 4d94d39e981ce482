"""A Ray head on this machine: `python -m plinth.engine.ray_head`, started by `plinth.cluster.local_ray`.

`ray start --head` would also start Ray's client server, which nobody uses here, cannot be told not to, and takes all
of Ray down when it does not find its node within 30 s (seen on busy machines). `ray.init` starts a head without it.
The head lives as long as this process: until SIGTERM, or until one of Ray's own processes dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import ray

LOOK_SECONDS = 1.0
ESSENTIAL = ("gcs_server", "raylet", "dashboard.py")


def main() -> None:
    """Start the head as the one JSON argument says, and stay."""
    settings = json.loads(sys.argv[1])
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=settings["dashboard_port"],
        labels=settings["labels"],
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=settings["temp_dir"],
    )
    essential = find_essential(Path("/proc"), os.getpid())
    while not ended.wait(LOOK_SECONDS):
        gone = [pid for pid in essential if not Path(f"/proc/{pid}/exe").exists()]
        if gone:
            sys.exit(f"a process of Ray died: {', '.join(essential[pid] for pid in gone)}")
    ray.shutdown()


def find_essential(proc: Path, parent: int) -> dict[int, str]:
    """The processes that Ray cannot be without, by process id: children of this one.

    Not by name alone: a process that the raylet has just forked bears the raylet's name until it becomes a worker.
    """
    found = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent_id = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        for name in ESSENTIAL:
            if parent_id == parent and f"/{name} " in command:
                found[int(entry.name)] = name
    return found


if __name__ == "__main__":
    main()
