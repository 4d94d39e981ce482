"""`kubectl plinth`: status, plan, logs, chat and profile for the models of a cluster, as a kubectl plugin.

It has the permissions of whoever runs it, and finds the cluster as kubectl does: the current context of KUBECONFIG.
"""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from plinth import __version__
from plinth.api.v1alpha1 import AnyResource, GPUPool, ModelDeployment
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import GPU_POOL, MODEL_DEPLOYMENT, POD, SECRET
from plinth.cluster.kube.login import LoginError
from plinth.cluster.ray_rest import RayRest
from plinth.desired import ray_names
from plinth.runtime.commands import converse, print_logs
from plinth.runtime.plan_client import PlanRefused, PlanUnavailable, ask_at
from plinth.runtime.plan_command import FILES, POOL, BadInput, load_files, show_plan
from plinth.runtime.plan_command import OUTPUT as PLAN_OUTPUT
from plinth.runtime.port_forward import forwarded
from plinth.runtime.profile_command import CONCURRENCY, SECONDS, show_profile
from plinth.runtime.profile_command import OUTPUT as PROFILE_OUTPUT
from plinth.runtime.status_command import OUTPUT, WATCH, show

Answer = TypeVar("Answer")
Kind = TypeVar("Kind", GPUPool, ModelDeployment)
GATEWAY, GATEWAY_PORT = "service/plinth-gateway", "http"
OPERATOR_PODS = "app.kubernetes.io/name=plinth,app.kubernetes.io/component=operator"
PLAN_PORT = "plan"
FORBIDDEN = 403

NAMESPACE = click.option("-n", "--namespace", help="The model's namespace; by default that of the context.")
SYSTEM_NAMESPACE = click.option(
    "--system-namespace", default="plinth-system", show_default=True, help="Where Plinth is installed."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubectl plinth")
def kubectl() -> None:
    """Look at the models that Plinth serves in a cluster."""


@kubectl.command()
@NAMESPACE
@click.option("-A", "--all-namespaces", is_flag=True, help="The models of all namespaces.")
@OUTPUT
@WATCH
def status(*, namespace: str | None, all_namespaces: bool, output: str | None, watch: bool) -> None:
    """Show models and pools: what is asked for, what runs, and why."""
    where = "" if all_namespaces else namespace or current_namespace()
    show(lambda: ask(lambda client: read_resources(client, where)), output, watch=watch)


@kubectl.command()
@FILES
@POOL
@PLAN_OUTPUT
@NAMESPACE
@SYSTEM_NAMESPACE
def plan(
    *, files: tuple[Path, ...], pool: str | None, output: str, namespace: str | None, system_namespace: str
) -> None:
    """Show what the cluster would make of FILE...: shapes and places beside all that runs, and who would have to go.

    Nothing is applied. A model whose file names no namespace is planned for in that of the context, as kubectl apply
    would put it there. The operator is asked, so it takes the permission to forward a port to its pods.

    Ends with 3 where something would stay pending, with 2 where the files or options are wrong.
    """
    asked = load_files(files)
    models = [in_namespace(each, namespace or current_namespace()) for each in asked.models]
    show_plan(ask_operator(system_namespace, (*asked.pools, *models), pool), output)


@kubectl.command()
@click.argument("model")
@click.option("-l", "--lines", default=100, show_default=True, help="How many lines of each replica.")
@NAMESPACE
def logs(*, model: str, lines: int, namespace: str | None) -> None:
    """Print what the engines of MODEL wrote, replica by replica.

    It reads Ray's token and reaches Ray's head, which the namespace of the pool's Ray must allow.
    """
    where = namespace or current_namespace()
    printed = 0
    for ray, token in ask(lambda client: find_rays(client, where, model)):
        place, _, name = ray.partition("/")
        with forwarded(place, f"service/{name}-head-svc", str(ray_names.DASHBOARD_PORT)) as address:
            printed += asyncio.run(print_logs(RayRest(address, token=token), f"{where}/{model}", lines))
    if not printed:
        raise click.ClickException(
            f"no replica of {where}/{model} runs; see: kubectl plinth status -n {where}"
        )


@kubectl.command()
@click.argument("model")
@click.argument("question", nargs=-1)
@NAMESPACE
@SYSTEM_NAMESPACE
def chat(*, model: str, question: tuple[str, ...], namespace: str | None, system_namespace: str) -> None:
    """Talk to MODEL; the answer streams. With a QUESTION, ask that and leave."""
    full_name = f"{namespace or current_namespace()}/{model}"
    with forwarded(system_namespace, GATEWAY, GATEWAY_PORT) as address:
        converse(f"{address}/v1", full_name, " ".join(question))


@kubectl.command()
@click.argument("model")
@CONCURRENCY
@SECONDS
@PROFILE_OUTPUT
@NAMESPACE
@SYSTEM_NAMESPACE
def profile(
    *,
    model: str,
    concurrency: tuple[int, ...],
    seconds: float,
    output: str | None,
    namespace: str | None,
    system_namespace: str,
) -> None:
    """Measure MODEL under the workload that its spec states.

    It is asked through the gateway, and this counts as load: a model that may scale does.
    """
    where = namespace or current_namespace()
    found = ask(lambda client: read_model(client, where, model))
    with forwarded(system_namespace, GATEWAY, GATEWAY_PORT) as address:
        show_profile(f"{address}/v1", found, concurrency=concurrency, seconds=seconds, output=output)


def current_namespace() -> str:
    """The namespace of kubectl's current context."""
    command = ["kubectl", "config", "view", "--minify", "--output", "jsonpath={..namespace}"]
    done = subprocess.run(  # noqa: S603 - as written above
        command, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(done.stderr.strip())
    return done.stdout.strip() or "default"


def ask(question: Callable[[KubeClient], Awaitable[Answer]]) -> Answer:
    """Ask the API server something. Raises ClickException in its words."""

    async def run() -> Answer:
        client = await KubeClient.connect()
        try:
            return await question(client)
        finally:
            await client.close()

    try:
        return asyncio.run(run())
    except (KubeAway, KubeRefused, LoginError) as error:
        raise click.ClickException(str(error)) from error


async def read_resources(client: KubeClient, namespace: str) -> list[AnyResource]:
    """The models of a namespace (all, if it is empty), and the pools where they may be seen."""
    models, _ = await client.list(MODEL_DEPLOYMENT, namespace=namespace)
    try:
        pools, _ = await client.list(GPU_POOL)
    except KubeRefused as refusal:
        if refusal.status != FORBIDDEN:
            raise
        pools = []
    return [
        *(parse(ModelDeployment, each) for each in models),
        *(parse(GPUPool, each) for each in pools),
    ]


def parse(model: type[Kind], found: dict[str, Any]) -> Kind:
    """An object of ours. Raises ClickException where this version does not understand it."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        name = found["metadata"]["name"]
        raise click.ClickException(
            f"{model.__name__} {name} is of another version than this kubectl-plinth ({__version__}): {error}"
        ) from error


async def read_model(client: KubeClient, namespace: str, name: str) -> ModelDeployment:
    """One model. Raises ClickException where there is none."""
    found = await client.get(MODEL_DEPLOYMENT, namespace, name)
    if found is None:
        raise click.ClickException(f"there is no ModelDeployment {namespace}/{name}")
    return parse(ModelDeployment, found)


def in_namespace(model: ModelDeployment, namespace: str) -> ModelDeployment:
    """The model where `kubectl apply` would put it."""
    if "namespace" in model.metadata.model_fields_set:
        return model
    metadata = model.metadata.model_copy(update={"namespace": namespace})
    return model.model_copy(update={"metadata": metadata})


def ask_operator(namespace: str, resources: Sequence[AnyResource], pool: str | None) -> dict[str, Any]:
    """The document of a what-if, of the operator's pod that leads: the others have none. Raises ClickException."""
    refusals = []
    for pod in ask(lambda client: find_operators(client, namespace)):
        with forwarded(namespace, f"pod/{pod}", PLAN_PORT) as address:
            try:
                return ask_at(address, resources, pool)
            except PlanRefused as error:
                raise BadInput(str(error)) from None
            except PlanUnavailable as error:
                refusals.append(f"{pod}: {error}")
    raise click.ClickException(
        "\n".join(refusals) or f"no pod of plinth-operator runs in {namespace}; see --system-namespace"
    )


async def find_operators(client: KubeClient, namespace: str) -> list[str]:
    """The operator's pods that run."""
    pods, _ = await client.list(POD, namespace=namespace, labels=OPERATOR_PODS)
    return sorted(
        each["metadata"]["name"] for each in pods if each.get("status", {}).get("phase") == "Running"
    )


async def find_rays(client: KubeClient, namespace: str, name: str) -> list[tuple[str, str]]:
    """The RayClusters of the pool that a model runs on (`namespace/name`), each with its token."""
    status = (await read_model(client, namespace, name)).status
    pool = await client.get(GPU_POOL, "", status.pool) if status.pool else None
    if pool is None:
        raise click.ClickException(f"{namespace}/{name} runs on no pool yet; its conditions say why")
    rays = parse(GPUPool, pool).status.ray_clusters
    return [(ray, await read_ray_token(client, ray)) for ray in rays]


async def read_ray_token(client: KubeClient, ray: str) -> str:
    """What the Ray asks for; KubeRay keeps it in a Secret of the RayCluster's name."""
    namespace, _, name = ray.partition("/")
    secret = await client.get(SECRET, namespace, name)
    if secret is None:
        raise click.ClickException(f"RayCluster {ray} has no token yet; try again in a moment")
    return base64.b64decode(secret["data"][ray_names.TOKEN_KEY]).decode()
