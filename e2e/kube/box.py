"""A machine within the machine: one process whose namespaces everything of a node lives in.

Processes, mounts, network, host name are the box's own, as in a container that shares this machine's files. The
kernel ends all of them together with the box's first process, so a node can be lost at once and nothing of it is left,
however the run that made it ends.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from kube.binaries import find_program
from kube.processes import ProcessId, wait_until
from kube.run_folder import RunFolder

START_SECONDS = 10.0
COMMAND_SECONDS = 30.0

NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc")

PRIVATE_FOLDERS = (
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
"""Where a node's programs keep what is theirs."""

KERNEL_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What a kubelet sets for the whole machine; in a box it writes into files, and the machine stays as it was."""

SETUP = """
set -e
folder=$1 pause=$2 private=$3 settings=$4
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
for path in $private; do
  mkdir -p "$path" "$folder$path"
  mount --bind "$folder$path" "$path"
done
for setting in $settings; do
  mkdir -p "$folder/sys/${setting%/*}"
  cat "/proc/sys/$setting" >"$folder/sys/$setting"
  mount --bind "$folder/sys/$setting" "/proc/sys/$setting"
done
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$pause"
"""


class Box:
    """The namespaces of one node."""

    def __init__(self, run: RunFolder, name: str) -> None:
        """Make the namespaces."""
        self.name = name
        self.folder = run.path / name
        self.folder.mkdir()
        command: list[str | Path] = [find_program("unshare"), *NAMESPACES, "--mount-proc"]
        command += ["--propagation=private", "--fork", "--kill-child"]
        command += ["sh", "-c", f"hostname {name}\n{SETUP}", "sh", self.folder, find_program("pause")]
        command += [" ".join(PRIVATE_FOLDERS), " ".join(KERNEL_SETTINGS)]
        self._holder = run.process(f"{name}-box", command)
        self._holder.start()
        self._holder.wait(self._is_set_up, seconds=START_SECONDS, what=f"{name} has its namespaces")
        self.init = ProcessId.of(self._find_init())
        run.record_process(self.init)

    @property
    def enter_network(self) -> tuple[str, ...]:
        """What to put before a command that shall run in the box's network and else outside."""
        return (str(find_program("nsenter")), f"--net=/proc/{self.init.pid}/ns/net", "--")

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that shall run within the box."""
        return (str(find_program("nsenter")), f"--target={self.init.pid}", *NAMESPACES, "--")

    def call(self, *command: str | Path) -> str:
        """Run a command within the box to its end; returns what it printed."""
        return call(*self.enter, *command)

    def kill(self) -> None:
        """End every process of the box at once, and forget what it kept."""
        self.init.signal(signal.SIGKILL)
        wait_until(lambda: not self.init.lives(), seconds=START_SECONDS, what=f"{self.name} is gone")
        shutil.rmtree(self.folder)

    def _find_init(self) -> int:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_set_up(self) -> bool:
        init = self._find_init()
        return init != 0 and Path(f"/proc/{init}/comm").read_text() == "pause\n"


def call(*command: str | Path) -> str:
    """Run a command to its end; returns what it printed.

    Raises:
        RuntimeError: it failed; says what it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
