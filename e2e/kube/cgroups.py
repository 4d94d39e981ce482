"""A control group for each node: two kubelets on one machine must not take each other's pods for orphans."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
"""What a kubelet needs, where the machine has one tree for all (version 2)."""


def make_cgroups(name: str) -> list[Path]:
    """Make the group in every tree that this machine has; returns its folders."""
    if (ROOT / "cgroup.controllers").exists():
        offered = (ROOT / "cgroup.controllers").read_text().split()
        enabled = " ".join(f"+{controller}" for controller in CONTROLLERS if controller in offered)
        (ROOT / "cgroup.subtree_control").write_text(enabled)
        trees = [ROOT]
    else:
        trees = [
            tree for tree in ROOT.iterdir() if (tree / "cgroup.procs").exists() and not tree.is_symlink()
        ]
    folders = [tree / name for tree in trees]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return folders
