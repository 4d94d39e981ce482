"""The watched folder: what is read, what is refused, and that the last good version goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plinth.api.v1alpha1 import GPUPoolStatus, ModelDeploymentStatus, QuotaPolicyStatus, ResourceKey
from plinth.cluster.folder import FolderState, FolderStore, Stored, load_folder
from plinth.cluster.folder_files import MAX_FILE_BYTES, MAX_FILES
from plinth.cluster.status_db import AnyStatus, StatusDB
from plinth.tests.searching import examples

GRACE = 0.2
CHAT = ResourceKey("ModelDeployment", "default", "chat")


def model(name: str = "chat", *, replicas: int | str = 1, extra: str = "") -> str:
    return f"""\
apiVersion: plinth.dev/v1alpha1
kind: ModelDeployment
metadata:
  name: {name}
spec:
  model: {{source: "package://m/x.gguf"}}
  scaling:
    maxReplicas: {replicas}
{extra}"""


POOL = """\
apiVersion: plinth.dev/v1alpha1
kind: GPUPool
metadata: {name: cpu}
spec: {accelerator: CPU}
"""

POLICY = """\
apiVersion: plinth.dev/v1alpha1
kind: QuotaPolicy
metadata: {name: standard}
spec: {limits: {perKey: {requestsPerMinute: 60}}}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def errors(folder: Path) -> list[str]:
    return [str(issue) for issue in load_folder(folder).errors]


class TestLoading:
    def test_several_documents_and_nested_folders_are_read(self, tmp_path: Path) -> None:
        write(tmp_path, "a.yaml", f"{POOL}---\n{model('one')}---\n{model('two')}")
        write(tmp_path, "team/b.yml", model("three"))
        contents = load_folder(tmp_path)
        assert [pool.metadata.name for pool in contents.pools] == ["cpu"]
        assert [found.metadata.name for found in contents.models] == ["one", "three", "two"]
        assert contents.errors == ()

    def test_policies_are_read_beside_models_and_keep_their_last_good_version(self, tmp_path: Path) -> None:
        write(tmp_path, "models.yaml", model("chat"))
        write(tmp_path, "policy.yaml", POLICY)
        assert [each.metadata.name for each in load_folder(tmp_path).policies] == ["standard"]
        with StatusDB.open(tmp_path / "status.db") as database:
            store = FolderStore(tmp_path, database, removal_grace_seconds=GRACE)
            status = QuotaPolicyStatus(keys=2)
            store.read(1.0)
            store.write({ResourceKey("QuotaPolicy", "default", "standard"): status})
            write(tmp_path, "policy.yaml", POLICY.replace("60", "0"))
            (policy,) = store.read(2.0).policies
        assert policy.resource.spec.limits.per_key.requests_per_minute == 60
        assert "requestsPerMinute: must be at least 1, got 0" in policy.invalid_edit
        assert policy.resource.status == status

    @pytest.mark.parametrize(
        "name", [".hidden.yaml", ".git/x.yaml", "secrets/hub/x.yaml", "a/secrets/x.yaml", "x.json", "yaml"]
    )
    def test_hidden_entries_secrets_and_other_files_are_passed_over(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, name, "not: [yaml")
        contents = load_folder(tmp_path)
        assert (contents.files, contents.errors, contents.warnings) == ((), (), ())

    def test_kinds_of_others_are_passed_over_with_a_warning(self, tmp_path: Path) -> None:
        others = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {}\n---\napiVersion: x.io/v1\nkind: ModelDeployment\n"
        write(tmp_path, "a.yaml", f"{others}---\nresources: [b.yaml]\n")
        contents = load_folder(tmp_path)
        assert contents.errors == ()
        assert [str(warning) for warning in contents.warnings] == [
            'a.yaml:1: kind "Deployment" of "apps/v1" is not Plinth\'s; passed over',
            'a.yaml:5: kind "ModelDeployment" of "x.io/v1" is not Plinth\'s; passed over',
            "a.yaml:8: kind null of null is not Plinth's; passed over",
        ]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                model(replicas=0),
                "a.yaml:8: spec.scaling.maxReplicas: must be at least 1, got 0; anything from 1 to 1000 works",
            ),
            (
                model(extra="    minReplicas: 5"),
                (
                    "a.yaml:9: spec.scaling.minReplicas: must be at most maxReplicas, got 5; "
                    "set maxReplicas to 5 or more, or minReplicas to 1 or less"
                ),
            ),
            (
                model(extra="  scalling: {}"),
                "a.yaml:9: unknown field spec.scalling; did you mean spec.scaling?",
            ),
            (
                model(extra="  servedName: a\n  servedName: b"),
                "a.yaml:10: spec.servedName: must be written once; remove this one or the one on line 9",
            ),
            (
                model().replace("ModelDeployment", "ModelDeploymnt"),
                (
                    'a.yaml:2: kind: must be one of GPUPool, ModelDeployment, QuotaPolicy, got "ModelDeploymnt"; '
                    "did you mean ModelDeployment?"
                ),
            ),
            (
                model().replace("plinth.dev", "plint.dev"),
                (
                    'a.yaml:1: apiVersion: must be plinth.dev/v1alpha1, got "plint.dev/v1alpha1"; '
                    "did you mean plinth.dev/v1alpha1?"
                ),
            ),
            (
                model().replace("apiVersion: plinth.dev/v1alpha1\n", ""),
                "a.yaml:1: apiVersion: is required; write apiVersion: plinth.dev/v1alpha1",
            ),
            ("- 1\n- 2\n", "a.yaml:1: must be a resource; begin it with apiVersion, kind, metadata and spec"),
        ],
    )
    def test_a_fault_names_file_line_field_rule_and_remedy(
        self, tmp_path: Path, text: str, expected: str
    ) -> None:
        write(tmp_path, "a.yaml", text)
        assert errors(tmp_path) == [expected]

    def test_a_broken_file_is_told_with_its_line_and_the_others_are_read(self, tmp_path: Path) -> None:
        write(tmp_path, "a.yaml", model() + "\n  bad: [")
        write(tmp_path, "b.yaml", model("other"))
        (error,) = errors(tmp_path)
        assert error.startswith("a.yaml:10: must be YAML: ")
        assert [found.metadata.name for found in load_folder(tmp_path).models] == ["other"]

    def test_the_same_name_twice_is_refused_at_both_places(self, tmp_path: Path) -> None:
        write(tmp_path, "a.yaml", f"{model('one')}---\n{model('chat')}")
        write(tmp_path, "b.yaml", model("chat"))
        contents = load_folder(tmp_path)
        assert [found.metadata.name for found in contents.models] == ["one"]
        assert [str(issue) for issue in contents.errors] == [
            f"{here}: metadata.name: must be the only ModelDeployment default/chat; another is at {there}; "
            "remove one of them, or give it another name"
            for here, there in [("a.yaml:10", "b.yaml:1"), ("b.yaml:1", "a.yaml:10")]
        ]

    def test_the_same_name_in_another_namespace_or_of_another_kind_is_another_resource(
        self, tmp_path: Path
    ) -> None:
        elsewhere = model("cpu").replace("name: cpu", "name: cpu\n  namespace: b")
        write(tmp_path, "a.yaml", f"{POOL}---\n{model('cpu')}---\n{elsewhere}")
        contents = load_folder(tmp_path)
        assert contents.errors == ()
        assert len(contents.found) == 3

    def test_a_folder_that_is_not_there_is_one_error(self, tmp_path: Path) -> None:
        contents = load_folder(tmp_path / "none")
        assert not contents.is_readable
        assert "must be a folder that can be read" in str(contents.errors[0])

    def test_size_and_number_of_files_are_bounded(self, tmp_path: Path) -> None:
        write(tmp_path, "big.yaml", "#" * (MAX_FILE_BYTES + 1))
        assert "256 KiB" in errors(tmp_path)[0]
        for number in range(MAX_FILES):
            (tmp_path / f"{number}.yaml").touch()
        contents = load_folder(tmp_path)
        assert "at most 1000 YAML files" in str(contents.errors[0])
        assert not contents.is_readable

    def test_pipes_and_broken_links_do_not_hold_the_reader_up(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.yaml")
        (tmp_path / "link.yaml").symlink_to("nowhere")
        (tmp_path / "around").symlink_to(tmp_path)
        write(tmp_path, "a.yaml", model())
        contents = load_folder(tmp_path)
        assert len(contents.models) == 1
        assert [issue.file for issue in contents.errors] == ["link.yaml", "pipe.yaml"]

    def test_a_mounted_configmap_is_read_once(self, tmp_path: Path) -> None:
        write(tmp_path, "..2026_01_01/a.yaml", model())
        (tmp_path / "..data").symlink_to("..2026_01_01")
        (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
        assert len(load_folder(tmp_path).models) == 1

    @settings(examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=150), st.integers(0, 200), st.integers(0, 40))
    def test_any_bytes_anywhere_in_a_file_are_at_most_errors(
        self, tmp_path: Path, data: bytes, position: int, cut: int
    ) -> None:
        good = model().encode()
        (tmp_path / "a.yaml").write_bytes(good[:position] + data + good[position + cut :])
        contents = load_folder(tmp_path)
        for issue in contents.errors + contents.warnings:
            str(issue).encode()


class Timeline:
    """A folder store with a clock that stands where the test puts it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "folder"
        self.folder.mkdir()
        self.database_path = root / "status.db"
        self.database = StatusDB.open(self.database_path)
        self.store = FolderStore(self.folder, self.database, removal_grace_seconds=GRACE)

    def write(self, name: str, text: str) -> None:
        write(self.folder, name, text)

    def at(self, now: float) -> FolderState:
        return self.store.read(now)

    def restart(self) -> None:
        self.database.close()
        self.database = StatusDB.open(self.database_path)
        self.store = FolderStore(self.folder, self.database, removal_grace_seconds=GRACE)


@pytest.fixture
def timeline(tmp_path: Path) -> Iterator[Timeline]:
    line = Timeline(tmp_path)
    yield line
    line.database.close()


def only(state: FolderState) -> Stored:  # type: ignore[type-arg]
    (stored,) = state.models
    return stored


def seen(state: FolderState) -> dict[str, tuple[int, int]]:
    """Each model's generation and greatest number of replicas."""
    return {
        stored.resource.metadata.name: (
            stored.resource.metadata.generation,
            stored.resource.spec.scaling.max_replicas,
        )
        for stored in state.models
    }


class TestStore:
    def test_the_generation_moves_with_the_spec_alone(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model(replicas=1))
        assert seen(timeline.at(1)) == {"chat": (1, 1)}
        timeline.write("a.yaml", model(replicas=2))
        assert seen(timeline.at(2)) == {"chat": (2, 2)}
        timeline.write(
            "a.yaml",
            "# a comment\n" + model(replicas=2).replace("name: chat", "name: chat\n  labels: {a: b}"),
        )
        state = timeline.at(3)
        assert seen(state) == {"chat": (2, 2)}
        assert only(state).resource.metadata.labels == {"a": "b"}
        timeline.write("a.yaml", model(replicas=2, extra="    minReplicas: 1"))
        assert seen(timeline.at(4)) == {"chat": (2, 2)}, "a default written out changes nothing"

    def test_generation_in_the_file_is_not_believed(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model().replace("name: chat", "name: chat\n  generation: 7"))
        assert seen(timeline.at(1)) == {"chat": (1, 1)}

    def test_when_a_resource_was_first_seen_is_remembered_across_edits_and_restarts(
        self, timeline: Timeline
    ) -> None:
        timeline.write("a.yaml", model())
        timeline.at(5)
        timeline.write("a.yaml", model(replicas=2))
        timeline.at(6)
        timeline.restart()
        state = timeline.at(9)
        assert (only(state).first_seen, seen(state)) == (5, {"chat": (2, 2)})

    @pytest.mark.parametrize(
        ("edit", "part"),
        [
            (model(replicas=0), "a.yaml:8: spec.scaling.maxReplicas: must be at least 1"),
            ("apiVersion: [", "must be YAML"),
            (model().replace("ModelDeployment", "ModelDeploymnt"), "kind: must be one of"),
            (
                model().replace("name: chat", "nam: chat"),
                "unknown field metadata.nam; did you mean metadata.name?",
            ),
            (model("Chat!"), "metadata.name: must be lowercase"),
            (
                model().replace("plinth.dev/v1alpha1", "plinth.dev/v2"),
                "apiVersion: must be plinth.dev/v1alpha1",
            ),
            (model(extra="  pool: a\n  pool: b"), "must be written once"),
            (f"{model(replicas=2)}---\n{model(replicas=3)}", "must be the only"),
            ("#" * (MAX_FILE_BYTES + 1), "256 KiB"),
        ],
    )
    def test_a_broken_edit_is_refused_and_the_last_good_version_goes_on(
        self, timeline: Timeline, edit: str, part: str
    ) -> None:
        timeline.write("a.yaml", model(replicas=1))
        timeline.at(1)
        timeline.write("a.yaml", edit)
        for now in (2, 3):
            state = timeline.at(now)
            assert seen(state) == {"chat": (1, 1)}
            assert part in only(state).invalid_edit
        timeline.restart()
        state = timeline.at(4)
        assert seen(state) == {"chat": (1, 1)}
        assert part in only(state).invalid_edit
        timeline.write("a.yaml", model(replicas=2))
        state = timeline.at(5)
        assert (seen(state), only(state).invalid_edit) == ({"chat": (2, 2)}, "")

    def test_a_fault_in_one_document_holds_up_no_other(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", f"{model('one')}---\n{model('two')}---\n{model('three')}")
        timeline.at(1)
        timeline.write("a.yaml", f"{model('one', replicas=5)}---\n{model('two', replicas=0)}")
        timeline.at(2)
        state = timeline.at(3)
        assert seen(state) == {"one": (2, 5), "two": (1, 1)}
        assert [bool(stored.invalid_edit) for stored in state.models] == [False, True]

    def test_a_resource_without_a_good_version_is_an_error_and_nothing_more(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model(replicas=0))
        state = timeline.at(1)
        assert state.models == ()
        assert len(state.errors) == 1

    def test_a_resource_leaves_with_its_file_or_its_document(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", f"{model('one')}---\n{model('two')}")
        timeline.write("b.yaml", model("three"))
        timeline.at(1)
        timeline.write("a.yaml", model("one"))
        (timeline.folder / "b.yaml").unlink()
        state = timeline.at(2)
        assert sorted(seen(state)) == ["one", "three", "two"], "waited out: an editor may be saving"
        assert state.recheck_at == 2 + GRACE
        state = timeline.at(2 + GRACE)
        assert sorted(seen(state)) == ["one"]
        assert state.recheck_at is None
        timeline.restart()
        assert sorted(seen(timeline.at(4))) == ["one"]

    def test_a_file_gone_for_a_moment_while_an_editor_saves_is_not_missed(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model())
        timeline.at(1)
        (timeline.folder / "a.yaml").rename(timeline.folder / "a.yaml~")
        assert seen(timeline.at(1.1)) == {"chat": (1, 1)}
        timeline.write("a.yaml", model(replicas=2))
        assert seen(timeline.at(1.2)) == {"chat": (2, 2)}
        assert seen(timeline.at(9)) == {"chat": (2, 2)}

    def test_a_resource_moved_to_another_file_stays_itself(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model())
        timeline.at(1)
        (timeline.folder / "a.yaml").rename(timeline.folder / "b.yaml")
        state = timeline.at(9)
        assert (only(state).file, only(state).first_seen, seen(state)) == ("b.yaml", 1, {"chat": (1, 1)})
        timeline.write("b.yaml", "x: [")
        assert seen(timeline.at(10)) == {"chat": (1, 1)}, "it is b.yaml's now"

    def test_a_resource_that_comes_back_begins_anew(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model(replicas=1))
        timeline.at(1)
        timeline.write("a.yaml", model(replicas=2))
        timeline.at(2)
        (timeline.folder / "a.yaml").unlink()
        timeline.at(3)
        timeline.at(4)
        timeline.write("a.yaml", model(replicas=2))
        state = timeline.at(5)
        assert (seen(state), only(state).first_seen) == ({"chat": (1, 2)}, 5)

    def test_a_folder_that_is_away_takes_nothing_with_it(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model())
        timeline.at(1)
        timeline.folder.rename(timeline.folder.with_name("away"))
        for now in (2, 9):
            state = timeline.at(now)
            assert seen(state) == {"chat": (1, 1)}
            assert "must be a folder" in str(state.errors[0])
        timeline.folder.with_name("away").rename(timeline.folder)
        assert timeline.at(10).errors == ()

    def test_what_is_kept_but_no_longer_understood_is_left_out(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", model())
        timeline.at(1)
        timeline.write("a.yaml", "x: [")
        row = timeline.database.read_resources()[0]
        older = row.manifest.replace('"maxReplicas"', '"mostReplicas"')
        timeline.database.apply_resources([type(row)(**{**vars(row), "manifest": older})])
        timeline.restart()
        assert timeline.at(2).models == ()

    def test_statuses_come_back_with_their_resources(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", f"{POOL}---\n{model()}")
        timeline.at(1)
        pool = ResourceKey("GPUPool", "", "cpu")
        wanted: dict[ResourceKey, AnyStatus] = {
            CHAT: ModelDeploymentStatus(replicas=2),
            pool: GPUPoolStatus(nodes=1),
        }
        assert timeline.store.write(wanted) == 2
        assert timeline.store.write(wanted) == 0
        for _ in range(2):
            state = timeline.at(2)
            assert only(state).resource.status.replicas == 2
            assert state.pools[0].resource.status.nodes == 1
            timeline.restart()

    def test_a_status_of_a_resource_that_left_is_not_written(self, timeline: Timeline) -> None:
        assert timeline.store.write({CHAT: ModelDeploymentStatus(replicas=2)}) == 0
        assert timeline.database.read_statuses() == {}

    def test_nothing_is_written_while_nothing_changes(self, timeline: Timeline) -> None:
        timeline.write("a.yaml", f"{model('one')}---\n{model('two')}")
        timeline.at(1)
        before = timeline.database._connection.total_changes
        for now in range(2, 6):
            timeline.at(now)
        assert timeline.database._connection.total_changes == before

    def test_an_edit_of_the_same_size_within_the_clock_s_tick_is_seen(self, timeline: Timeline) -> None:
        for number in range(1, 10):
            timeline.write("a.yaml", model(replicas=number))
            assert seen(timeline.at(number)) == {"chat": (number, number)}

    @settings(examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(edits=st.lists(st.sampled_from([1, 1, 2, 3, 0, "x", "broken", "gone", "restart"]), max_size=8))
    def test_the_generation_counts_the_good_changes_whatever_lies_between(
        self, tmp_path_factory: pytest.TempPathFactory, edits: list[int | str]
    ) -> None:
        line = Timeline(tmp_path_factory.mktemp("timeline"))
        expected: tuple[int, int] | None = None
        with contextlib.closing(line.database):
            for number, edit in enumerate(edits):
                if edit == "restart":
                    line.restart()
                elif edit == "gone":
                    (line.folder / "a.yaml").unlink(missing_ok=True)
                    expected = None
                else:
                    line.write("a.yaml", "x: [" if edit == "broken" else model(replicas=edit))
                if isinstance(edit, int) and edit > 0 and (expected is None or expected[1] != edit):
                    expected = (1 if expected is None else expected[0] + 1, edit)
                line.at(number)
                state = line.at(number + 0.5)
                assert seen(state) == ({"chat": expected} if expected else {})
            line.database.close()
