"""`plinth operator`: one replica of the operator, with what Kubernetes tells it by options, environment and signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

import click

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.login import LoginError
from plinth.desired.key_secrets import KEYS_NAMESPACE
from plinth.desired.ray_pods import RaySettings
from plinth.runtime.json_logs import FORMATS, LEVELS, set_up_logs
from plinth.runtime.operator_adapters import ClusterAdapters
from plinth.runtime.operator_metrics import OperatorMetrics
from plinth.runtime.operator_options import OperatorOptions
from plinth.runtime.operator_process import Adapters, OperatorProcess, Replica

FILE = click.Path(dir_okay=False, path_type=Path)
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GC_ALLOCATIONS = 50_000
"""Before the garbage collector looks at what is new; Python's own is 700."""

log = logging.getLogger("plinth.operator")


@click.command()
@click.option("--namespace", default="plinth-system", show_default=True, help="Where Plinth is installed.")
@click.option("--engine-image", required=True, help="Image of the Ray pods, where the engines run.")
@click.option("--ray-version", default="2.57.0", show_default=True, help="The Ray in that image.")
@click.option(
    "--image-pull-policy",
    type=click.Choice(["Always", "IfNotPresent", "Never"]),
    default="IfNotPresent",
    show_default=True,
    help="When Ray pods pull their image.",
)
@click.option(
    "--image-pull-secret", "pull_secrets", multiple=True, help="Secret to pull it with; repeatable."
)
@click.option(
    "--redis-address",
    default="",
    help="HOST:PORT where Ray heads keep their state, so that a new one takes over.",
)
@click.option(
    "--redis-password-secret", default="", help="Secret with its password under the key `password`."
)
@click.option(
    "--keys-namespace",
    default=KEYS_NAMESPACE,
    show_default=True,
    help="Where the Secrets of API keys are; policies' statuses count them.",
)
@click.option("--metrics-port", default=8080, show_default=True, help="For /metrics, /healthz and /readyz.")
@click.option("--webhook-port", default=9443, show_default=True, help="For admission.")
@click.option(
    "--plan-port", default=8085, show_default=True, help="For `kubectl plinth plan`, on loopback only."
)
@click.option(
    "--secret-file",
    type=FILE,
    default="/etc/plinth/engine/secret",
    show_default=True,
    help="The secret that engines ask for.",
)
@click.option(
    "--token-file",
    type=FILE,
    default="/etc/plinth/gateway/token",
    show_default=True,
    help="The token that gateways ask for before they tell their load.",
)
@click.option("--log-format", type=click.Choice(FORMATS), default="json", show_default=True)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
def operator(  # noqa: PLR0917 - click gives them by name
    namespace: str,
    engine_image: str,
    ray_version: str,
    image_pull_policy: str,
    pull_secrets: tuple[str, ...],
    redis_address: str,
    redis_password_secret: str,
    keys_namespace: str,
    metrics_port: int,
    webhook_port: int,
    plan_port: int,
    secret_file: Path,
    token_file: Path,
    log_format: str,
    log_level: str,
) -> None:
    """Plan, place and scale the models of a cluster. Of several replicas one leads; all answer admission."""
    set_up_logs(log_format, log_level)
    options = OperatorOptions(
        namespace=namespace,
        ray=RaySettings(
            namespace=namespace,
            image=engine_image,
            ray_version=ray_version,
            pull_policy=image_pull_policy,
            pull_secrets=pull_secrets,
            redis_address=redis_address,
            redis_password_secret=redis_password_secret,
        ),
        keys_namespace=keys_namespace,
        metrics_port=metrics_port,
        webhook_port=webhook_port,
        plan_port=plan_port,
        secret_file=secret_file,
        token_file=token_file,
    )
    # What is known of a fleet is large and lives long; the collector looks through all of it far less often than usual.
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
    try:
        asyncio.run(run_operator(options, ClusterAdapters))
    except (LoginError, OSError) as error:
        raise click.ClickException(str(error)) from error


async def run_operator(options: OperatorOptions, make_adapters: Callable[[Replica], Adapters]) -> None:
    """Run until SIGTERM or SIGINT. Raises LoginError, OSError."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def take_signals() -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, stop.set)

    take_signals()
    metrics = OperatorMetrics(time.time)
    client = await KubeClient.connect(observe=metrics.take_answer)
    lease_client = await KubeClient.connect(observe=metrics.take_answer)
    try:
        process = OperatorProcess(
            options,
            client,
            lease_client,
            metrics,
            make_adapters=make_adapters,
            take_signals_back=take_signals,
        )
        await process.run(stop)
        log.info("ended in good order")
    finally:
        await lease_client.close()
        await client.close()
