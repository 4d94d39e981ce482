"""The `plinth` command, and `kubectl` for its plugin `kubectl plinth`."""

from __future__ import annotations

import click

from plinth import __version__
from plinth.runtime.commands import chat, crds, logs
from plinth.runtime.inspect import inspect
from plinth.runtime.kubectl import kubectl
from plinth.runtime.release import release
from plinth.runtime.status_command import status
from plinth.runtime.up import up

__all__ = ["kubectl", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="plinth")
def main() -> None:
    """Serve models from YAML: one OpenAI API for a fleet of accelerators."""


for command in (up, status, logs, chat, crds, inspect, release):
    main.add_command(command)


if __name__ == "__main__":
    main()
