"""What `helm test` runs in the cluster: a client that asks the gateway which models there are.

Where a key is needed it makes one, which opens the models of Plinth's own namespace for a minute at most, and takes it
away again. So it is shown too that keys reach the gateways.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import click

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.key_store import KeySecrets
from plinth.cluster.kube.kinds import SECRET
from plinth.cluster.kube.login import LoginError
from plinth.desired.key_secrets import secret_name
from plinth.domain.keys import KeyTaken
from plinth.runtime.keyring import Asked, make_key

KEY_NAME = "helm-test"
KEY_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.2
OK, UNAUTHORIZED = 200, 401


class NotServedError(Exception):
    """The gateway does not do what it should; the message is one clear line."""


@click.command("chart-test")
@click.option("--gateway", required=True, help="Its address, as in http://plinth-gateway:80.")
@click.option("--namespace", default="", help="Whose models the key opens.")
@click.option("--keys-namespace", help="Where to make a key; without it, none must be needed.")
def chart_test(*, gateway: str, namespace: str, keys_namespace: str | None) -> None:
    """Ask the gateway for its models."""
    try:
        models = asyncio.run(_run(gateway, namespace, keys_namespace))
    except (
        NotServedError,
        KubeAway,
        KubeRefused,
        LoginError,
        KeyTaken,
        aiohttp.ClientError,
        OSError,
    ) as error:
        raise click.ClickException(str(error) or repr(error)) from error
    click.echo(f"the gateway serves {', '.join(models) or 'no models yet'}")


async def _run(gateway: str, namespace: str, keys_namespace: str | None) -> list[str]:
    if keys_namespace is None:
        return await list_models(gateway)
    client = await KubeClient.connect()
    try:
        return await list_models_by_key(client, gateway, namespace=namespace, keys_namespace=keys_namespace)
    finally:
        await client.close()


async def list_models_by_key(
    client: KubeClient, gateway: str, *, namespace: str, keys_namespace: str
) -> list[str]:
    """What the gateway serves to a key that is made for this question. Raises NotServedError."""
    async with _key(client, keys_namespace, namespace) as secret:
        return await list_models(gateway, secret)


async def list_models(gateway: str, secret: str = "") -> list[str]:
    """What the gateway serves; with a secret it must be needed, and be known soon. Raises NotServedError."""
    # The certificate names the address that clients use, which is not this one.
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(gateway, connector=connector) as session:
        if secret and (status := (await _ask(session, ""))[0]) != UNAUTHORIZED:
            raise NotServedError(
                f"the gateway asks for no key: it answers {status} instead of {UNAUTHORIZED}"
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status, models = await _ask(session, secret)
            if status == OK:
                return models
            if not secret or time.monotonic() > deadline:
                raise NotServedError(f"the gateway answers {status}{' to a new key' if secret else ''}")
            await asyncio.sleep(LOOK_SECONDS)


async def _ask(session: aiohttp.ClientSession, secret: str) -> tuple[int, list[str]]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with session.get("/v1/models", headers=headers) as answer:
        if answer.status != OK:
            return answer.status, []
        return OK, [model["id"] for model in (await answer.json())["data"]]


@asynccontextmanager
async def _key(client: KubeClient, keys_namespace: str, tenant: str) -> AsyncIterator[str]:
    """The secret of a key that is gone afterwards, and one left by a run that was killed."""
    name = secret_name(tenant, KEY_NAME)
    await client.delete(SECRET, keys_namespace, name)
    key, secret = make_key(Asked(name=KEY_NAME, tenant=tenant, expires=KEY_SECONDS), time.time())
    await KeySecrets(client, keys_namespace).add(key)
    try:
        yield secret
    finally:
        await client.delete(SECRET, keys_namespace, name)


if __name__ == "__main__":
    chart_test()
