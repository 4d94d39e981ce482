"""The `plinth` command, and `kubectl` for its plugin `kubectl plinth`."""

from __future__ import annotations

import click

from plinth import __version__
from plinth.runtime.commands import chat, crds, logs
from plinth.runtime.inspect import inspect
from plinth.runtime.keys_command import keys
from plinth.runtime.kubectl import kubectl
from plinth.runtime.kubectl_keys import keys as cluster_keys
from plinth.runtime.plan_command import plan
from plinth.runtime.profile_command import profile
from plinth.runtime.release import release
from plinth.runtime.status_command import status
from plinth.runtime.up import up

__all__ = ["kubectl", "main"]


class Commands(click.Group):
    """All commands; the operator's is loaded only when asked for, since kopf takes longer than the rest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, for the help page."""
        return sorted([*super().list_commands(ctx), "operator"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command by name."""
        if cmd_name == "operator":
            from plinth.runtime.operator import operator  # noqa: PLC0415 - see above

            return operator
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="plinth")
def main() -> None:
    """Serve models from YAML: one OpenAI API for a fleet of accelerators."""


for command in (up, plan, status, logs, chat, keys, profile, crds, inspect, release):
    main.add_command(command)
kubectl.add_command(cluster_keys)


if __name__ == "__main__":
    main()
