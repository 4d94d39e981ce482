"""SQLite beside the folder: written only on change, read meanwhile, rebuilt when damaged."""

from __future__ import annotations

import logging
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plinth.api.v1alpha1 import Condition, GPUPoolStatus, ModelDeploymentStatus, ResourceKey
from plinth.cluster.status_db import SCHEMA_VERSION, AnyStatus, NewerSchemaError, ResourceRow, StatusDB
from plinth.tests.searching import examples

CHAT = ResourceKey("ModelDeployment", "default", "chat")
POOL = ResourceKey("GPUPool", "", "h200")


def row(name: str = "chat", *, generation: int = 1, manifest: str = "{}") -> ResourceRow:
    key = ResourceKey("ModelDeployment", "default", name)
    return ResourceRow(key=key, file="a.yaml", manifest=manifest, generation=generation, first_seen=1.5)


def model_status(replicas: int = 0) -> ModelDeploymentStatus:
    ready = Condition(
        type="Ready",
        status="False",
        reason="Starting",
        message="Lädt …",
        last_transition_time="2026-01-01T00:00:00Z",
        observed_generation=1,
    )
    return ModelDeploymentStatus(replicas=replicas, desired_replicas=3, plan=["why"], conditions=[ready])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "status.db"


@pytest.fixture
def database(path: Path) -> Iterator[StatusDB]:
    with StatusDB.open(path) as opened:
        yield opened


def test_resources_are_kept_across_restarts(path: Path) -> None:
    with StatusDB.open(path) as database:
        database.apply_resources([row("b"), row("a", generation=3)])
    with StatusDB.open(path) as database:
        assert database.read_resources() == [row("a", generation=3), row("b")]
        database.apply_resources([row("a", generation=4)], [row("b").key])
        assert database.read_resources() == [row("a", generation=4)]


def test_statuses_come_back_as_they_were(path: Path) -> None:
    statuses: dict[ResourceKey, AnyStatus] = {CHAT: model_status(2), POOL: GPUPoolStatus(nodes=2)}
    with StatusDB.open(path) as database:
        assert database.write_statuses(statuses) == 2
    with StatusDB.open(path) as database:
        assert database.read_statuses() == statuses


def test_only_what_changed_is_written(database: StatusDB) -> None:
    database.write_statuses({CHAT: model_status(1), POOL: GPUPoolStatus(nodes=2)})
    before = database._connection.total_changes
    assert database.write_statuses({CHAT: model_status(1), POOL: GPUPoolStatus(nodes=2)}) == 0
    assert database._connection.total_changes == before
    assert database.write_statuses({CHAT: model_status(2), POOL: GPUPoolStatus(nodes=2)}) == 1
    assert database._connection.total_changes == before + 1


def test_only_what_changed_is_written_after_a_restart_too(path: Path) -> None:
    with StatusDB.open(path) as database:
        database.write_statuses({CHAT: model_status(1)})
    with StatusDB.open(path) as database:
        assert database.write_statuses({CHAT: model_status(1)}) == 0


def test_a_status_that_is_left_out_is_deleted(database: StatusDB) -> None:
    database.write_statuses({CHAT: model_status(), POOL: GPUPoolStatus()})
    assert database.write_statuses({POOL: GPUPoolStatus()}) == 1
    assert list(database.read_statuses()) == [POOL]


def test_a_removed_resource_takes_its_status_with_it(database: StatusDB) -> None:
    database.apply_resources([row()])
    database.write_statuses({CHAT: model_status()})
    database.apply_resources([], [CHAT])
    assert database.read_statuses() == {}
    assert database.write_statuses({CHAT: model_status()}) == 1, "it is not thought to be there still"


def test_a_pass_is_written_whole_or_not_at_all(database: StatusDB) -> None:
    database.write_statuses({CHAT: model_status(1)})
    database._connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON statuses WHEN NEW.kind = 'GPUPool'"
        " BEGIN SELECT RAISE(ABORT, 'injected'); END"
    )
    with pytest.raises(sqlite3.Error, match="injected"):
        database.write_statuses({CHAT: model_status(2), POOL: GPUPoolStatus()})
    assert database.read_statuses() == {CHAT: model_status(1)}
    database._connection.execute("DROP TRIGGER refuse")
    assert database.write_statuses({CHAT: model_status(2), POOL: GPUPoolStatus()}) == 2


def test_everything_is_for_its_owner_alone(path: Path, database: StatusDB) -> None:
    database.apply_resources([row()])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"status.db": 0o600, "status.db-wal": 0o600, "status.db-shm": 0o600}


def test_a_mode_that_was_loosened_is_tightened(path: Path) -> None:
    StatusDB.open(path).close()
    path.chmod(0o644)
    StatusDB.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_process_reads_while_this_one_writes(path: Path, database: StatusDB) -> None:
    reader = (
        "import sys\nfrom pathlib import Path\nfrom plinth.cluster.status_db import StatusDB\n"
        "database = StatusDB.open(Path(sys.argv[1]), read_only=True)\n"
        "for _ in sys.stdin:\n"
        "    print([status.replicas for status in database.read_statuses().values()], flush=True)\n"
    )
    database.write_statuses({CHAT: model_status(1)})
    with subprocess.Popen(
        [sys.executable, "-c", reader, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for replicas in (2, 3):
            database.write_statuses({CHAT: model_status(replicas)})
            with database._transaction():  # an open transaction holds up no reader
                print(file=process.stdin, flush=True)
                assert process.stdout.readline() == f"[{replicas}]\n"
        process.stdin.close()


def test_a_reader_changes_nothing_and_makes_nothing(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="plinth up has not run"):
        StatusDB.open(path, read_only=True)
    assert not path.exists()
    path.touch()
    with pytest.raises(FileNotFoundError, match="no status yet"):
        StatusDB.open(path, read_only=True)
    path.unlink()
    StatusDB.open(path).close()
    with (
        StatusDB.open(path, read_only=True) as reader,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reader.apply_resources([row()])


def test_a_file_of_a_newer_plinth_is_refused_and_left_alone(path: Path) -> None:
    with StatusDB.open(path) as database:
        database.apply_resources([row()])
        database._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for read_only in (False, True):
        with pytest.raises(NewerSchemaError, match=r"newer Plinth \(schema 2, this one knows 1\): upgrade"):
            StatusDB.open(path, read_only=read_only)
    assert not [file.name for file in path.parent.iterdir() if "damaged" in file.name]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM resources").fetchall() == [("chat",)]
    connection.close()


def overwrite_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


def overwrite_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [overwrite_header, overwrite_pages])
def test_a_damaged_file_is_moved_aside_and_begun_anew_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    assert callable(damage)
    for number in (1, 2):
        with StatusDB.open(path) as database:
            database.apply_resources([row(f"model-{i}", manifest="x" * 500) for i in range(50)])
        damage(path)
        with caplog.at_level(logging.WARNING), StatusDB.open(path) as database:
            assert database.read_resources() == []
            database.apply_resources([row()])
        assert f"moved to status.db.damaged-{number}" in caplog.text
        assert path.with_name(f"status.db.damaged-{number}").exists()


def test_a_damaged_file_is_left_alone_by_a_reader(path: Path) -> None:
    overwrite_header(path)
    with pytest.raises(sqlite3.DatabaseError):
        StatusDB.open(path, read_only=True)
    assert path.exists()


def test_threads_share_one_database(database: StatusDB) -> None:
    def work(number: int) -> None:
        for generation in range(1, 20):
            database.apply_resources([row(f"model-{number}", generation=generation)])
            assert database.read_resources()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.generation for found in database.read_resources()] == [19] * 4


names = st.sampled_from(["a", "b", "c"])


@settings(examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(names, st.integers(0, 2), max_size=3) | st.sets(names, min_size=1),
        min_size=1,
        max_size=6,
    )
)
def test_the_file_holds_what_was_written_last_and_counts_the_difference(
    database: StatusDB, steps: list[dict[str, int] | set[str]]
) -> None:
    database.write_statuses({})
    expected: dict[str, int] = {}
    for step in steps:
        if isinstance(step, set):  # resources removed
            database.apply_resources([], [row(name).key for name in step])
            expected = {name: replicas for name, replicas in expected.items() if name not in step}
        else:
            changed = database.write_statuses({row(name).key: model_status(n) for name, n in step.items()})
            assert changed == sum(step.get(name) != expected.get(name) for name in {*step, *expected})
            expected = step
        found = {
            key.name: status.replicas
            for key, status in database.read_statuses().items()
            if isinstance(status, ModelDeploymentStatus)
        }
        assert found == expected
