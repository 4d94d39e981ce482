"""SQLite beside the watched folder: the last good resources, their generations, and their statuses.

What the API server keeps in a cluster. `plinth up` writes it, `plinth status` reads it from another process
at the same time. Nothing here is the only copy of anything that matters: a lost file costs the generations'
counts and the last good version of a resource whose file is broken just then.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from plinth.api.v1alpha1 import GPUPoolStatus, ModelDeploymentStatus, QuotaPolicyStatus, ResourceKey

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_BUSY_MILLISECONDS = 2000
_SCHEMA = """
CREATE TABLE resources (
  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  file TEXT NOT NULL, manifest TEXT NOT NULL, generation INTEGER NOT NULL, first_seen REAL NOT NULL,
  PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE statuses (
  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
"""

AnyStatus = GPUPoolStatus | ModelDeploymentStatus | QuotaPolicyStatus


class NewerSchemaError(RuntimeError):
    """The file was written by a newer Plinth."""


@dataclass(frozen=True, kw_only=True)
class ResourceRow:
    """The last good version of a resource."""

    key: ResourceKey
    file: str
    """Where it was read, relative to the watched folder."""
    manifest: str
    """The resource as JSON, without its status."""
    generation: int
    first_seen: float
    """Unix seconds."""


class StatusDB:
    """One open file. Safe to use from several threads; one writer process (which holds the folder's lock)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._written: dict[ResourceKey, str] | None = None

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> StatusDB:
        """Open the file, making it if need be (not when reading only).

        A file that is not a sound database is moved aside and begun anew, with a warning.

        Raises:
            FileNotFoundError: reading only, and there is none.
            NewerSchemaError: a newer Plinth wrote it.
            sqlite3.DatabaseError: reading only, and it is unsound.
        """
        if read_only:
            return cls(_connect_to_read(path))
        try:
            return cls(_connect(path))
        except sqlite3.OperationalError:
            raise  # locked, no space, no permission: the file itself may be sound
        except sqlite3.DatabaseError as error:
            aside = _move_aside(path)
            _log.warning("%s is damaged (%s): moved to %s and begun anew", path, error, aside.name)
            return cls(_connect(path))

    def close(self) -> None:
        """Close the file; whatever was written stays."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_resources(self) -> list[ResourceRow]:
        """The last good version of every resource, by key."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT kind, namespace, name, file, manifest, generation, first_seen FROM resources"
                " ORDER BY kind, namespace, name"
            ).fetchall()
        return [
            ResourceRow(
                key=ResourceKey(*row[:3]), file=row[3], manifest=row[4], generation=row[5], first_seen=row[6]
            )
            for row in rows
        ]

    def apply_resources(self, changed: Iterable[ResourceRow], removed: Iterable[ResourceKey] = ()) -> None:
        """Keep these versions and forget those resources with their statuses, in one transaction."""
        gone = [(key.kind, key.namespace, key.name) for key in removed]
        rows = [
            (
                row.key.kind,
                row.key.namespace,
                row.key.name,
                row.file,
                row.manifest,
                row.generation,
                row.first_seen,
            )
            for row in changed
        ]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            for table in ("resources", "statuses"):
                connection.executemany(
                    f"DELETE FROM {table} WHERE kind = ? AND namespace = ? AND name = ?",  # noqa: S608 - both names stand above
                    gone,
                )
        self._written = None

    def read_statuses(self) -> dict[ResourceKey, AnyStatus]:
        """Every status as last written."""
        return {
            key: _STATUS_TYPES[key.kind].model_validate_json(text)
            for key, text in self._read_status_texts().items()
            if key.kind in _STATUS_TYPES
        }

    def write_statuses(self, statuses: Mapping[ResourceKey, AnyStatus]) -> int:
        """Make these all the statuses there are: those left out are deleted. Returns how many rows changed.

        One transaction; none at all when nothing changed.
        """
        wanted = {key: status.model_dump_json(by_alias=True) for key, status in statuses.items()}
        if self._written is None:
            self._written = self._read_status_texts()
        changed = [(k.kind, k.namespace, k.name, t) for k, t in wanted.items() if self._written.get(k) != t]
        gone = [(key.kind, key.namespace, key.name) for key in self._written.keys() - wanted.keys()]
        if changed or gone:
            self._written = None  # not known again until the transaction has succeeded
            with self._transaction() as connection:
                connection.executemany("INSERT OR REPLACE INTO statuses VALUES (?, ?, ?, ?)", changed)
                connection.executemany(
                    "DELETE FROM statuses WHERE kind = ? AND namespace = ? AND name = ?", gone
                )
            self._written = wanted
        return len(changed) + len(gone)

    def _read_status_texts(self) -> dict[ResourceKey, str]:
        with self._lock:
            rows = self._connection.execute("SELECT kind, namespace, name, status FROM statuses").fetchall()
        return {ResourceKey(*row[:3]): row[3] for row in rows}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection


_STATUS_TYPES: dict[str, type[AnyStatus]] = {
    "GPUPool": GPUPoolStatus,
    "ModelDeployment": ModelDeploymentStatus,
    "QuotaPolicy": QuotaPolicyStatus,
}


def _connect(path: Path) -> sqlite3.Connection:
    # Made before SQLite opens it: its mode is also that of the -wal and -shm files.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    return _prepared(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False), path, _make_writable
    )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise FileNotFoundError(f"no status at {path}: plinth up has not run on this folder")
    where = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False)
    return _prepared(connection, path, _refuse_unwritten)


def _prepared(
    connection: sqlite3.Connection, path: Path, prepare: Callable[[sqlite3.Connection, int], None]
) -> sqlite3.Connection:
    try:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        prepare(connection, _check_version(connection, path))
    except BaseException:
        connection.close()
        raise
    return connection


def _make_writable(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if version == 0:
        connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    elif connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("its pages do not fit together")


def _refuse_unwritten(_: sqlite3.Connection, version: int) -> None:
    if version == 0:
        raise FileNotFoundError("no status yet: plinth up is about to begin")


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path} was written by a newer Plinth (schema {version}, this one knows {SCHEMA_VERSION}): "
            "upgrade Plinth, or delete the file, which is rebuilt from the folder"
        )
    return version


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
