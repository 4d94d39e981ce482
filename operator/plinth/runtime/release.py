"""`plinth release`: let go of every object before Plinth is uninstalled.

The operator's finalizers make a deletion wait for it. Once it is gone nobody would take them off, and `kubectl delete`
would hang for ever. So the operator is stopped first, for it would put them on again; then they are taken off.
What the operator made for itself goes too. The chart runs this as the last thing before it removes itself. Pools, models
and Ray pods stay as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from plinth.api.v1alpha1 import GROUP
from plinth.cluster.kube.certificate_rotation import SECRET_NAME
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import ENDPOINT_SLICE, GPU_POOL, LEASE, MODEL_DEPLOYMENT, POD, SECRET, Kind
from plinth.cluster.kube.login import LoginError
from plinth.desired.endpoint_slices import MARKER
from plinth.runtime.operator_options import LEASE_NAME

DEPLOYMENT = Kind(group="apps", version="v1", plural="deployments", kind="Deployment")
OPERATOR = "plinth-operator"
OWN = ((LEASE, LEASE_NAME), (SECRET, SECRET_NAME), (ENDPOINT_SLICE, MARKER))
"""What the operator makes in its namespace without an owner."""
OPERATOR_PODS = "app.kubernetes.io/name=plinth,app.kubernetes.io/component=operator"
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.5
NOT_FOUND, CONFLICT = 404, 409


@click.command()
@click.option(
    "--namespace", default="plinth-system", show_default=True, help="Where the operator is installed."
)
def release(namespace: str) -> None:
    """Stop the operator and take its finalizers off all pools and models, so that they can be deleted without it."""
    try:
        asyncio.run(_release(namespace))
    except (KubeAway, KubeRefused, LoginError) as error:
        raise click.ClickException(str(error)) from error


async def _release(namespace: str) -> None:
    client = await KubeClient.connect()
    try:
        if not await stop_operator(client, namespace):
            click.echo(
                f"the operator in {namespace} is still ending; it may take hold of objects again", err=True
            )
        for kind in (GPU_POOL, MODEL_DEPLOYMENT):
            await take_finalizers_off(client, kind, say=click.echo)
        for kind, name in OWN:
            await client.delete(kind, namespace, name)
    finally:
        await client.close()


async def stop_operator(client: KubeClient, namespace: str, *, seconds: float = PATIENCE_SECONDS) -> bool:
    """Scale the operator to zero and wait until its pods are gone; False where they are not within the time."""
    try:
        await client.patch(DEPLOYMENT, namespace, OPERATOR, {"spec": {"replicas": 0}}, subresource="scale")
    except KubeRefused as refusal:
        if refusal.status != NOT_FOUND:
            raise
    try:
        async with asyncio.timeout(seconds):
            while (await client.list(POD, namespace=namespace, labels=OPERATOR_PODS))[0]:
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        return False
    return True


async def take_finalizers_off(client: KubeClient, kind: Kind, *, say: Callable[[str], Any]) -> None:
    """Take Plinth's finalizers off every object of a kind; others' stay."""
    try:
        objects, _ = await client.list(kind)
    except KubeRefused as refusal:
        if refusal.status != NOT_FOUND:
            raise
        return  # the CRD is gone, and its objects with it
    for each in objects:
        await _take_off(client, kind, each, say)


async def _take_off(client: KubeClient, kind: Kind, found: dict[str, Any], say: Callable[[str], Any]) -> None:
    """Take ours off one object; if others change it meanwhile, look again."""
    namespace, name = found["metadata"].get("namespace", ""), found["metadata"]["name"]
    current: dict[str, Any] | None = found
    while current is not None:
        finalizers = current["metadata"].get("finalizers", [])
        kept = [each for each in finalizers if not each.startswith(f"{GROUP}/")]
        if kept == finalizers:
            return
        # With its version, so that a finalizer that somebody else adds at this moment is not lost.
        change = {"finalizers": kept, "resourceVersion": current["metadata"]["resourceVersion"]}
        try:
            await client.patch(kind, namespace, name, {"metadata": change})
        except KubeRefused as refusal:
            if refusal.status not in {NOT_FOUND, CONFLICT}:
                raise
            current = await client.get(kind, namespace, name)
        else:
            say(f"released {kind.kind} {f'{namespace}/{name}' if namespace else name}")
            return
