"""`plinth keys`: the API keys of a folder that `plinth up` serves; it need not be running."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from plinth.cluster.folder_files import load_folder
from plinth.cluster.key_store import KeyDB, KeyStoreError
from plinth.cluster.state_dir import StateDir, UnsafeStateError
from plinth.domain.access import Band
from plinth.runtime import keyring
from plinth.runtime.commands import FOLDER, find_instance

NAMESPACE = click.option(
    "-n", "--namespace", default="default", show_default=True, help="The namespace whose models it opens."
)


class FolderKeys:
    """The keys in a folder's state; its QuotaPolicies are read from the folder itself."""

    def __init__(self, state: StateDir, database: KeyDB) -> None:
        self._state = state
        self.read = database.read
        self.add = database.add
        self.change = database.change

    def policies(self, tenant: str) -> Collection[str]:
        """See Keys.policies."""
        found = load_folder(self._state.folder).policies
        return {each.metadata.name for each in found if each.metadata.namespace == tenant}


@contextmanager
def opened(folder: Path | None) -> Iterator[FolderKeys]:
    """The keys of the folder, or of the only one that is served. Raises ClickException."""
    state = StateDir.for_folder(folder) if folder is not None else find_instance(None)[0]
    try:
        state.create()
        with KeyDB.open(state.keys_db) as database:
            yield FolderKeys(state, database)
    except (KeyStoreError, UnsafeStateError, OSError) as error:
        raise click.ClickException(str(error)) from error


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys.

    Once there has been a key, `plinth up` asks for one; revoking the last does not open the API again.
    """


@keys.command()
@click.argument("name")
@keyring.POLICY
@keyring.MODELS
@keyring.EXPIRES
@keyring.PRIORITY
@NAMESPACE
@FOLDER
def create(
    *,
    name: str,
    policies: tuple[str, ...],
    models: tuple[str, ...],
    expires: float | None,
    priority: Band | None,
    namespace: str,
    folder: Path | None,
) -> None:
    """Make the key NAME and print its secret, for the only time.

    Without a policy it opens all models of the namespace, without limits.
    """
    asked = keyring.Asked(
        name=name, tenant=namespace, policies=policies, models=models, expires=expires, priority=priority
    )
    with opened(folder) as store:
        keyring.create_key(store, asked)


@keys.command("list")
@click.option("-n", "--namespace", default="", help="Only the keys of this namespace.")
@keyring.OUTPUT
@FOLDER
def list_(*, namespace: str, output: str | None, folder: Path | None) -> None:
    """Show the keys, without their secrets, which nobody has any more."""
    with opened(folder) as store:
        keyring.list_keys(store, namespace, output)


@keys.command()
@click.argument("name")
@keyring.GRACE
@NAMESPACE
@FOLDER
def rotate(*, name: str, grace: float, namespace: str, folder: Path | None) -> None:
    """Give the key NAME (or its id) a new secret and print it; limits go on counting where they are."""
    with opened(folder) as store:
        keyring.rotate_key(store, namespace, name, grace)


@keys.command()
@click.argument("name")
@NAMESPACE
@FOLDER
def revoke(*, name: str, namespace: str, folder: Path | None) -> None:
    """End the key NAME (or its id) within a second; requests under way go on to their end."""
    with opened(folder) as store:
        keyring.revoke_key(store, namespace, name)
