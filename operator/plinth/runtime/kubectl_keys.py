"""`kubectl plinth keys`: the API keys of a cluster, with the permissions of whoever runs it in the keys' namespace."""

from __future__ import annotations

from collections.abc import Callable, Collection

import click

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.key_store import KeySecrets
from plinth.cluster.kube.kinds import QUOTA_POLICY
from plinth.desired.key_secrets import KEYS_NAMESPACE, KeySecretError
from plinth.domain.access import Band
from plinth.domain.keys import StoredKey
from plinth.runtime import keyring
from plinth.runtime.kubectl import ask, current_namespace

NAMESPACE = click.option(
    "-n", "--namespace", help="The namespace whose models the key opens; by default that of the context."
)
KEYS = click.option(
    "--keys-namespace", default=KEYS_NAMESPACE, show_default=True, help="Where the keys' Secrets are."
)


class ClusterKeys:
    """The keys' Secrets behind the commands' port; each call is one conversation with the API server."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def read(self, tenant: str) -> list[StoredKey]:
        """See Keys.read."""
        return ask(lambda client: self._secrets(client).read(tenant))

    def add(self, key: StoredKey) -> None:
        """See Keys.add."""
        ask(lambda client: self._secrets(client).add(key))

    def change(self, tenant: str, name: str, edit: Callable[[StoredKey], StoredKey]) -> StoredKey:
        """See Keys.change."""
        try:
            return ask(lambda client: self._secrets(client).change(tenant, name, edit))
        except KeySecretError as error:
            raise click.ClickException(str(error)) from error

    def policies(self, tenant: str) -> Collection[str]:
        """See Keys.policies."""
        found, _ = ask(lambda client: client.list(QUOTA_POLICY, namespace=tenant))
        return {each["metadata"]["name"] for each in found}

    def _secrets(self, client: KubeClient) -> KeySecrets:
        return KeySecrets(client, self._namespace)


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys."""


@keys.command()
@click.argument("name")
@keyring.POLICY
@keyring.MODELS
@keyring.EXPIRES
@keyring.PRIORITY
@NAMESPACE
@KEYS
def create(
    *,
    name: str,
    policies: tuple[str, ...],
    models: tuple[str, ...],
    expires: float | None,
    priority: Band | None,
    namespace: str | None,
    keys_namespace: str,
) -> None:
    """Make the key NAME and print its secret, for the only time.

    Without a policy it opens all models of the namespace, without limits.
    """
    asked = keyring.Asked(
        name=name,
        tenant=namespace or current_namespace(),
        policies=policies,
        models=models,
        expires=expires,
        priority=priority,
    )
    keyring.create_key(ClusterKeys(keys_namespace), asked)


@keys.command("list")
@NAMESPACE
@click.option("-A", "--all-namespaces", is_flag=True, help="The keys of all namespaces.")
@keyring.OUTPUT
@KEYS
def list_(*, namespace: str | None, all_namespaces: bool, output: str | None, keys_namespace: str) -> None:
    """Show the keys, without their secrets, which nobody has any more."""
    where = "" if all_namespaces else namespace or current_namespace()
    keyring.list_keys(ClusterKeys(keys_namespace), where, output)


@keys.command()
@click.argument("name")
@keyring.GRACE
@NAMESPACE
@KEYS
def rotate(*, name: str, grace: float, namespace: str | None, keys_namespace: str) -> None:
    """Give the key NAME (or its id) a new secret and print it; limits go on counting where they are."""
    keyring.rotate_key(ClusterKeys(keys_namespace), namespace or current_namespace(), name, grace)


@keys.command()
@click.argument("name")
@NAMESPACE
@KEYS
def revoke(*, name: str, namespace: str | None, keys_namespace: str) -> None:
    """End the key NAME (or its id) within a second; requests under way go on to their end."""
    keyring.revoke_key(ClusterKeys(keys_namespace), namespace or current_namespace(), name)
