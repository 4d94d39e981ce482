"""API keys of a standalone Plinth, in SQLite in its state folder: what Secrets are in a cluster.

`plinth keys` writes it, `plinth up` reads it from another process and looks for changes several times a second. It is
the only copy of the keys, so unlike the statuses' file a damaged one is never begun anew: that would open the API.
Another file may be put in its place at any time, as from a backup: no log lies beside it that would belong to the old one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from plinth.domain.keys import ID_PREFIX, KeyTaken, KeyUnknown, StoredKey, may_replace

SCHEMA_VERSION = 1
_BUSY_MILLISECONDS = 2000
_SCHEMA = """
CREATE TABLE keys (
  tenant TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL,
  PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
"""
_DECODER = msgspec.json.Decoder(StoredKey)


class KeyStoreError(RuntimeError):
    """The file cannot be used; the text says why and what to do."""


class KeyDB:
    """One open file, for one thread; any number of processes."""

    def __init__(self, connection: sqlite3.Connection, path: Path, file: tuple[int, int]) -> None:
        self._connection = connection
        self._path = path
        self._file = file
        """Which file the path named when it was opened."""

    @classmethod
    def open(cls, path: Path) -> KeyDB:
        """Open the file, making it for its owner alone if need be. Raises KeyStoreError."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise KeyStoreError(f"the keys in {path} cannot be opened: {error}") from error
        file = _file_at(path)
        return cls(_connect(path, may_begin=True), path, file)

    def close(self) -> None:
        """Close the file; whatever was written stays."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, tenant: str = "") -> list[StoredKey]:
        """The keys of one tenant, or of all; revoked ones too. By tenant and name."""
        rows = self._connection.execute(
            "SELECT document FROM keys WHERE ? IN ('', tenant) ORDER BY tenant, name", (tenant,)
        )
        return [_DECODER.decode(document) for (document,) in rows]

    def add(self, key: StoredKey) -> None:
        """Keep a new key; raises KeyTaken while another one has its name."""
        with self._transaction():
            before = self._find(key.tenant, key.name)
            if before is not None and not may_replace(before):
                raise KeyTaken(f"{key.tenant} has a key {key.name} already; rotate or revoke that one")
            self._write(key)

    def change(self, tenant: str, name: str, edit: Callable[[StoredKey], StoredKey]) -> StoredKey:
        """Change the key of this name or id, and give it as it is now; raises KeyUnknown, and what `edit` raises."""
        with self._transaction():
            before = self._find(tenant, name)
            if before is None:
                raise KeyUnknown(f"{tenant} has no key {name}")
            after = edit(before)
            if after != before:
                self._write(after)
        return after

    def change_mark(self) -> tuple[int, ...]:
        """Moves when another process has changed something, or has put another file in the place of this one.

        Raises KeyStoreError where there is no sound file any more, and sqlite3.Error.
        """
        file = _file_at(self._path)
        if file != self._file:
            newer = _connect(self._path, may_begin=False)
            self._connection.close()
            self._connection, self._file = newer, file
        return *file, int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _find(self, tenant: str, name: str) -> StoredKey | None:
        column = "id" if name.startswith(ID_PREFIX) else "name"
        row = self._connection.execute(
            f"SELECT document FROM keys WHERE tenant = ? AND {column} = ?",  # noqa: S608 - one of the two above
            (tenant, name),
        ).fetchone()
        return None if row is None else _DECODER.decode(row[0])

    def _write(self, key: StoredKey) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)",
            (key.tenant, key.name, key.id, msgspec.json.encode(key).decode()),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise KeyStoreError(f"the keys in {self._path} cannot be written: {error}") from error


def _file_at(path: Path) -> tuple[int, int]:
    """Which file a path names now. Raises KeyStoreError."""
    try:
        found = path.stat()
    except OSError as error:
        raise KeyStoreError(f"the keys in {path} cannot be opened: {error}") from error
    return found.st_dev, found.st_ino


def _connect(path: Path, *, may_begin: bool) -> sqlite3.Connection:
    """Open a file that is there; an empty one only if it may be a new one's begin. Raises KeyStoreError."""
    try:
        path.chmod(0o600)
        connection = sqlite3.connect(path, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise KeyStoreError(f"the keys in {path} cannot be opened: {error}") from error
    try:
        _prepare(connection, path, may_begin=may_begin)
    except sqlite3.Error as error:
        connection.close()
        raise KeyStoreError(
            f"the keys in {path} cannot be read ({error}): put a sound copy in its place, or remove the file and"
            " make all keys anew"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, may_begin: bool) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise KeyStoreError(f"{path} was written by a newer Plinth (schema {version}): upgrade Plinth")
    if version == 0 and not may_begin:
        raise KeyStoreError(f"{path} was replaced by a file without keys; to begin anew, start Plinth again")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = FULL")  # a key that was said to be revoked stays revoked
    if version == 0:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if not connection.execute("PRAGMA user_version").fetchone()[0]:  # another process was quicker
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("its pages do not fit together")
