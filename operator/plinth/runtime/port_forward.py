"""A port of a pod or Service made reachable on this machine for a while, by kubectl and with its user's permissions."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import click

START_SECONDS = 15
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


@contextmanager
def forwarded(namespace: str, target: str, port: str) -> Iterator[str]:
    """The URL under which the target's port, a number or a name, answers meanwhile. Raises ClickException with kubectl's own words."""
    command = [
        *("kubectl", "port-forward", "--namespace", namespace, "--address", "127.0.0.1"),
        *(f"--pod-running-timeout={START_SECONDS}s", target, f":{port}"),
    ]
    process = subprocess.Popen(  # noqa: S603 - kubectl, with arguments of ours
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:  # waits for its end, and closes its pipes
        try:
            first = process.stdout.readline() if process.stdout else ""
            found = FORWARDING.search(first)
            if found:
                yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()
        if not found:
            said = process.stderr.read().strip() if process.stderr else ""
            raise click.ClickException(f"{target} in {namespace} cannot be reached: {said or first.strip()}")
