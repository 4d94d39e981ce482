"""Whether a cluster can run on this machine, and what is missing if not."""

from __future__ import annotations

import os

from kube.binaries import ProgramMissingError, find_program
from kube.cluster import PROGRAMS
from kube.node import NETWORK_PLUGINS

CONTROL_PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kubectl")


class RequirementError(Exception):
    """What is missing, and what to do about it."""


def require_control_plane(*programs: str) -> None:
    """What a control plane needs, and these programs.

    Raises:
        RequirementError: something is missing.
    """
    try:
        for name in (*CONTROL_PLANE_PROGRAMS, *programs):
            find_program(name)
    except ProgramMissingError as error:
        raise RequirementError(str(error)) from error


def require_nodes(*programs: str) -> None:
    """What a cluster with nodes needs, and these programs.

    Raises:
        RequirementError: something is missing.
    """
    if os.geteuid() != 0:
        raise RequirementError("nodes need root")
    require_control_plane(*PROGRAMS, *programs)
    if not NETWORK_PLUGINS.is_dir():
        raise RequirementError(
            f"{NETWORK_PLUGINS} is not there; on Debian: apt-get install containernetworking-plugins"
        )
