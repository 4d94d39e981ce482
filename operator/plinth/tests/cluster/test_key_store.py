"""API keys in SQLite: kept for good, changed by one process and seen by another, never lost without a word."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plinth.cluster.key_store import KeyDB, KeyStoreError
from plinth.domain.keys import KeyTaken, KeyUnknown, StoredKey, revoke, rotate
from plinth.tests.domain.test_keys import make_key

PACKAGES = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def database(path: Path) -> Iterator[KeyDB]:
    with KeyDB.open(path) as opened:
        yield opened


def test_keys_come_back_as_they_were_by_tenant_and_name(path: Path) -> None:
    keys = [
        make_key("a", policies=("p", "q"), models=("chat",), expires_at=9.5, priority="bulk"),
        make_key("b"),
        make_key("a2", "team-b"),
    ]
    with KeyDB.open(path) as database:
        for key in reversed(keys):
            database.add(key)
    with KeyDB.open(path) as database:
        assert database.read() == keys
        assert database.read("team-b") == keys[2:]
        assert database.read("nobody") == []


def test_a_name_is_taken_until_its_key_is_revoked(database: KeyDB) -> None:
    database.add(make_key("ci", id="pk_1"))
    with pytest.raises(KeyTaken, match="team-a has a key ci already"):
        database.add(make_key("ci", id="pk_2"))
    database.add(make_key("ci", "team-b", id="pk_3"))
    database.change("team-a", "ci", lambda key: revoke(key, now=5.0))
    database.add(make_key("ci", id="pk_2"))
    assert [each.id for each in database.read()] == ["pk_2", "pk_3"]


def test_a_key_is_found_by_its_name_or_its_id_in_its_own_tenant(database: KeyDB) -> None:
    database.add(make_key("ci", id="pk_1"))
    for name in ("ci", "pk_1"):
        assert database.change("team-a", name, lambda key: key).name == "ci"
        with pytest.raises(KeyUnknown, match="team-b has no key"):
            database.change("team-b", name, lambda key: key)


def test_an_edit_that_raises_changes_nothing(database: KeyDB) -> None:
    database.add(make_key("ci"))
    database.change("team-a", "ci", lambda key: revoke(key, now=5.0))
    with pytest.raises(KeyUnknown, match="was revoked"):
        database.change("team-a", "ci", lambda key: rotate(key, digest="d", now=6.0, grace_seconds=0))
    assert database.read()[0].revoked_at == 5.0


def test_another_process_s_change_is_noticed(path: Path, database: KeyDB) -> None:
    before = database.change_mark()
    assert database.change_mark() == before
    program = (
        "import sys; from pathlib import Path; from plinth.cluster.key_store import KeyDB;"
        "from plinth.tests.domain.test_keys import make_key;"
        "KeyDB.open(Path(sys.argv[1])).add(make_key())"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=PACKAGES, check=True, timeout=30)
    assert database.change_mark() != before
    assert database.read() == [make_key()]


def test_a_file_that_is_put_in_its_place_is_the_one_that_counts(path: Path, database: KeyDB) -> None:
    database.add(make_key("old"))
    restored = path.with_name("backup.db")
    with KeyDB.open(restored) as backup:
        backup.add(make_key("new"))
    before = database.change_mark()
    restored.replace(path)
    assert [each.name for each in database.read()] == ["old"]
    after = database.change_mark()
    assert after != before
    assert [each.name for each in database.read()] == ["new"]
    assert database.change_mark() == after
    database.add(make_key("newer"))
    with KeyDB.open(path) as another:
        assert [each.name for each in another.read()] == ["new", "newer"]


@pytest.mark.parametrize("what", ["nothing", "an empty file", "another kind of file"])
def test_what_is_no_keys_file_takes_no_effect_and_is_left_as_it_is(
    path: Path, database: KeyDB, what: str
) -> None:
    database.add(make_key("old"))
    path.unlink()
    if what != "nothing":
        path.write_bytes(b"" if what == "an empty file" else b"no database at all " * 100)
    for _ in range(2):
        with pytest.raises(KeyStoreError, match=r"keys\.db"):
            database.change_mark()
    assert [each.name for each in database.read()] == ["old"]
    assert path.exists() == (what != "nothing")


def test_a_copy_of_the_file_alone_holds_all_keys_even_while_it_is_open(path: Path, database: KeyDB) -> None:
    database.add(make_key("ci"))
    copy = Path(shutil.copy(path, path.with_name("copy.db")))
    with KeyDB.open(copy) as copied:
        assert copied.read() == database.read()


def test_changes_at_one_time_all_take_effect(path: Path) -> None:
    with KeyDB.open(path) as database:
        database.add(make_key("ci", made_at=0.0))

    def count() -> None:
        with KeyDB.open(path) as mine:
            for _ in range(10):
                mine.change("team-a", "ci", lambda key: replace(key, made_at=key.made_at + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with KeyDB.open(path) as database:
        assert database.read()[0].made_at == 40.0


def test_only_the_owner_may_read_it_and_no_secret_is_in_it(path: Path, database: KeyDB) -> None:
    database.add(make_key())
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"sk-plinth-" not in path.read_bytes()


def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path) -> None:
    with KeyDB.open(path) as database:
        for number in range(200):
            database.add(make_key(f"k{number}"))
    damaged = bytearray(path.read_bytes())
    damaged[4096:8192] = b"\xff" * 4096
    path.write_bytes(damaged)
    with pytest.raises(KeyStoreError, match="put a sound copy in its place"):
        KeyDB.open(path)
    assert path.read_bytes() == damaged
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(KeyStoreError, match="cannot be read"):
        KeyDB.open(path)


def test_a_newer_plinth_s_file_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(KeyStoreError, match="newer Plinth"):
        KeyDB.open(path)


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match=r"missing/keys\.db"):
        KeyDB.open(tmp_path / "missing" / "keys.db")


def test_a_document_of_a_newer_version_is_read(database: KeyDB) -> None:
    database.add(make_key())
    database._connection.execute("UPDATE keys SET document = json_insert(document, '$.colour', 'blue')")
    found: list[StoredKey] = database.read()
    assert found == [make_key()]
