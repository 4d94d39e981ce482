"""`plinth gateway-agent`: beside each gateway in a cluster, tells it routes and access, and passes on its load reports.

The gateway itself knows no Kubernetes and has no token for it: it reads what strangers send. Of this process, as of the
gateway, there is one in every pod, so it loads neither pydantic nor Ray.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from plinth.cluster.control_link import ControlLink
from plinth.cluster.kube.access_follower import AccessFollower
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.route_follower import RouteFollower
from plinth.desired.key_secrets import KEYS_NAMESPACE
from plinth.domain.traffic import LoadReport
from plinth.runtime.listen import Listen
from plinth.runtime.report_server import ReportServer

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LOOK_SECONDS = 0.1

FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """One agent."""

    control: Path
    host: str
    port: int
    token_file: Path
    table_file: Path
    access_file: Path
    namespace: str
    """That Plinth is installed in."""
    keys_namespace: str = KEYS_NAMESPACE
    requires_key: bool = True


class GatewayAgent:
    """The link to the gateway, the followers of routes and of keys, and the server of reports, put together."""

    def __init__(self, client: KubeClient, options: AgentOptions) -> None:
        self._options = options
        self._version = 0
        """The table that the gateway says it has."""
        self.link = ControlLink(options.control, on_report=self._on_report, on_lost=self._on_lost)
        self._server = ReportServer(token_file=options.token_file, is_ready=lambda: self._version > 0)
        self._follower = RouteFollower(
            client,
            release_namespace=options.namespace,
            table_file=options.table_file,
            hand_over=self.link.hand_over,
        )
        self._access = AccessFollower(
            client,
            keys_namespace=options.keys_namespace,
            requires_key=options.requires_key,
            table_file=options.access_file,
            hand_over=self.link.admit_by,
        )

    async def start(self) -> None:
        """Begin; raises OSError when the address is taken."""
        await self._server.start(self._options.host, self._options.port)
        self.link.start()
        self._follower.start()
        self._access.start()

    async def close(self) -> None:
        """End; the gateway goes on by its last tables."""
        await self._access.close()
        await self._follower.close()
        await self.link.close()
        await self._server.close()

    def _on_report(self, report: LoadReport) -> None:
        self._version = report.table_version
        self._server.publish(report)

    def _on_lost(self) -> None:
        self._version = 0
        self._server.fall_silent()


async def run_agent(options: AgentOptions) -> None:
    """Run until a signal comes, and then as long as the gateway still has requests. A second signal hurries."""
    client = await KubeClient.connect()
    agent = GatewayAgent(client, options)
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await agent.start()
        click.echo(f"listening on {options.host}:{options.port}", err=True)
        await stop.wait()
        while agent.link.connected and not hurry.is_set():
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await agent.close()
        await client.close()


@click.command("gateway-agent")
@click.option("--control", type=FILE, required=True, help="The gateway's control socket.")
@click.option("--listen", type=Listen(), required=True, help="Where the operator reads load reports.")
@click.option(
    "--token-file", type=FILE, required=True, help="File with the token that the operator must show."
)
@click.option("--table-file", type=FILE, required=True, help="Where the route table is kept across restarts.")
@click.option(
    "--namespace",
    help="The namespace that Plinth is installed in; by default that of the pod's service account.",
)
@click.option(
    "--access-file", type=FILE, required=True, help="Where the access table is kept across restarts."
)
@click.option(
    "--keys-namespace", default=KEYS_NAMESPACE, show_default=True, help="Where the Secrets of API keys are."
)
@click.option(
    "--requires-key/--requires-no-key",
    default=True,
    show_default=True,
    help="Whether callers without a key are refused, or may ask for every model without limits.",
)
def gateway_agent(
    *,
    control: Path,
    listen: tuple[str, int],
    token_file: Path,
    table_file: Path,
    access_file: Path,
    namespace: str | None,
    keys_namespace: str,
    requires_key: bool,
) -> None:
    """Tell a gateway the routes that the operator writes and who may ask, and the operator the gateway's load."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if namespace is None:
        try:
            namespace = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise click.UsageError(f"--namespace must be given outside a pod ({error})") from error
    options = AgentOptions(
        control=control,
        host=listen[0],
        port=listen[1],
        token_file=token_file,
        table_file=table_file,
        access_file=access_file,
        namespace=namespace,
        keys_namespace=keys_namespace,
        requires_key=requires_key,
    )
    asyncio.run(run_agent(options))


if __name__ == "__main__":
    gateway_agent()
