"""`plinth keys` and `kubectl plinth keys`: the same commands do the same, whether keys are in SQLite or in Secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from plinth.cli import kubectl, main
from plinth.cluster.folder import load_folder
from plinth.cluster.key_store import KeyDB
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway
from plinth.cluster.state_dir import StateDir
from plinth.desired.key_secrets import read_secret
from plinth.domain.access import AccessTable
from plinth.domain.keys import StoredKey
from plinth.domain.policies import access_table
from plinth.gateway.access.callers import Caller, Gate
from plinth.runtime.folder_access import FolderAccess
from plinth.tests.api.building import policy_document
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer

NOW = 1_800_000_000.0
DAY = 86_400.0


class Keys:
    """One place where keys are, driven by its command line."""

    def __init__(self, run: Callable[..., Result], stored: Callable[[], list[StoredKey]]) -> None:
        self.run = run
        self.stored = stored

    def say(self, *words: str) -> Result:
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result

    def make(self, *words: str) -> str:
        return self.say("create", *words).stdout.strip()

    def refuse(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code != 0
        return result.output

    def caller(self, secret: str, now: float = NOW) -> Caller | None:
        gate = Gate(access_table(self.stored(), [in_team_a()], requires_key=True, version=1))
        found = gate.admit(b"Bearer " + secret.encode(), b"", now)
        return found if isinstance(found, Caller) else None


def in_team_a() -> dict[str, object]:
    document = policy_document("standard", limits={"perKey": {"requestsPerMinute": 60}})
    document["metadata"]["namespace"] = "team-a"
    return document


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says; to be changed in place."""
    clock = [NOW]
    monkeypatch.setattr("plinth.runtime.keyring.time.time", lambda: clock[0])
    return clock


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    served = tmp_path / "models"
    served.mkdir()
    (served / "policy.yaml").write_text(yaml.safe_dump(in_team_a()))
    return served


@pytest.fixture(params=["folder", "cluster"])
def keys(request: pytest.FixtureRequest, now: list[float], monkeypatch: pytest.MonkeyPatch) -> Keys:  # noqa: ARG001 - sets the clock
    if request.param == "folder":
        return folder_keys(request.getfixturevalue("folder"))
    server = FakeApiServer()
    server.put("/apis/plinth.dev/v1alpha1/quotapolicies", in_team_a())

    async def connect() -> KubeClient:
        return server.client()

    monkeypatch.setattr(KubeClient, "connect", connect)

    def stored() -> list[StoredKey]:
        found = [item for (where, _, _), item in server.objects.items() if where == "/api/v1/secrets"]
        assert {each["metadata"]["namespace"] for each in found} <= {"plinth-keys"}
        return [read_secret(each) for each in found]

    def run(verb: str, *words: str) -> Result:
        return CliRunner().invoke(kubectl, ["keys", verb, *words, "-n", "team-a"])

    return Keys(run, stored)


def folder_keys(folder: Path) -> Keys:
    def stored() -> list[StoredKey]:
        with KeyDB.open(StateDir.for_folder(folder).keys_db) as database:
            return database.read()

    def run(verb: str, *words: str) -> Result:
        return CliRunner().invoke(main, ["keys", verb, *words, "-n", "team-a", "--folder", str(folder)])

    return Keys(run, stored)


def test_the_secret_alone_is_on_standard_output_and_opens_the_api(keys: Keys) -> None:
    result = keys.say("create", "ci", "--policy", "standard")
    secret = result.stdout.strip()
    assert secret.startswith("sk-plinth-")
    assert len(secret) == 53
    assert "only time" in result.stderr
    caller = keys.caller(secret)
    assert caller is not None
    assert caller.id.startswith("pk_")
    assert caller.id in result.stderr
    terms = caller.terms("team-a/chat")
    assert terms is not None
    assert terms.limits[0].limit.amount == 60


def test_what_is_stored_does_not_hold_the_secret_and_no_two_are_alike(keys: Keys) -> None:
    secrets = {keys.make(f"k{number}") for number in range(5)}
    assert len(secrets) == len({each.id for each in keys.stored()}) == 5
    assert not any(secret[len("sk-plinth-") :] in str(keys.stored()) for secret in secrets)


def test_a_key_ends_when_it_was_told_to(keys: Keys) -> None:
    secret = keys.make("ci", "--expires", "30d")
    assert keys.caller(secret, NOW + 30 * DAY - 1)
    assert keys.caller(secret, NOW + 30 * DAY) is None


def test_a_key_of_one_model_opens_no_other(keys: Keys) -> None:
    caller = keys.caller(keys.make("ci", "--model", "chat", "--priority", "bulk"))
    assert caller is not None
    terms = caller.terms("team-a/chat")
    assert terms is not None
    assert terms.priority == "bulk"
    assert caller.terms("team-a/embed") is None


def test_a_rotated_key_has_two_secrets_for_the_grace_and_one_id(keys: Keys) -> None:
    old = keys.make("ci")
    new = keys.say("rotate", "ci", "--grace", "1h").stdout.strip()
    first, second = keys.caller(old), keys.caller(new)
    assert first is not None
    assert second is not None
    assert first.id == second.id
    assert keys.caller(old, NOW + 3600) is None
    assert keys.caller(new, NOW + 3600)


def test_rotating_without_grace_ends_the_old_secret_at_once(keys: Keys) -> None:
    old = keys.make("ci")
    result = keys.say("rotate", "ci", "--grace", "0")
    assert "the old secret is void" in result.stderr
    assert keys.caller(old) is None
    assert keys.caller(result.stdout.strip())


def test_a_revoked_key_opens_nothing_stays_in_the_list_and_gives_up_its_name(keys: Keys) -> None:
    secret = keys.make("ci")
    assert "within a second" in keys.say("revoke", "ci").stdout
    assert keys.caller(secret) is None
    assert "revoked 2027-01-15T08:00:00Z" in keys.say("list").stdout
    assert "was revoked" in keys.refuse("rotate", "ci")
    assert keys.caller(keys.make("ci"))


def test_the_id_that_logs_show_names_the_key_too(keys: Keys) -> None:
    secret = keys.make("ci")
    keys.say("revoke", keys.stored()[0].id)
    assert keys.caller(secret) is None


def test_a_name_in_use_is_not_given_twice(keys: Keys) -> None:
    secret = keys.make("ci")
    assert "team-a has a key ci already; rotate or revoke that one" in keys.refuse("create", "ci")
    assert keys.caller(secret)


@pytest.mark.parametrize("name", ["CI", "a.b", "a_b", "a-", "ä", "x" * 64])
def test_a_name_that_no_object_could_have_is_refused(keys: Keys, name: str) -> None:
    assert "must be 1 to 63" in keys.refuse("create", name)
    assert keys.stored() == []


def test_a_policy_that_is_not_there_is_refused_with_those_that_are(keys: Keys) -> None:
    assert "there is no QuotaPolicy team-a/fast (there: standard)" in keys.refuse(
        "create", "ci", "--policy", "fast"
    )
    assert keys.stored() == []


def test_a_key_that_is_not_there_is_named(keys: Keys) -> None:
    for verb in ("rotate", "revoke"):
        assert "team-a has no key ci" in keys.refuse(verb, "ci")
        assert "team-a has no key pk_none" in keys.refuse(verb, "pk_none")


def test_the_list_shows_what_a_key_opens_and_never_a_secret(keys: Keys, now: list[float]) -> None:
    assert keys.say("list").stdout == ""
    keys.make("ci", "--policy", "standard", "--model", "chat", "--expires", "1h")
    secret = keys.make("web")
    now[0] += 2 * 3600
    lines = keys.say("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ID", "NAMESPACE", "POLICIES", "MODELS", "PRIORITY", "STATE"]
    assert lines[1].split()[2:] == ["team-a", "standard", "chat", "expired", "2027-01-15T09:00:00Z"]
    assert lines[2].split()[2:] == ["team-a", "none", "all", "valid"]
    listed = keys.say("list", "-o", "json").stdout
    documents = json.loads(listed)
    assert [(each["name"], each["valid"]) for each in documents] == [("ci", False), ("web", True)]
    for text in (listed, *lines):
        assert secret not in text
        assert keys.stored()[1].secrets[0].digest not in text


@pytest.mark.parametrize("words", ["30", "1w", "-1d", "d", "1.5h", "1 d"])
def test_a_time_without_a_unit_is_refused(keys: Keys, words: str) -> None:
    assert "is no duration; write 45m, 12h or 30d" in keys.refuse("create", "ci", f"--expires={words}")


def test_an_api_server_that_does_not_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeApiServer()

    async def away(_method: str, _path: str) -> None:
        raise KubeAway("nobody answers")

    async def connect() -> KubeClient:
        return server.client()

    server.before = away
    monkeypatch.setattr(KubeClient, "connect", connect)
    result = CliRunner().invoke(kubectl, ["keys", "list", "-A"])
    assert result.exit_code == 1
    assert "nobody answers" in result.output


def test_a_damaged_store_is_told_of_and_not_replaced(folder: Path) -> None:
    keys = folder_keys(folder)
    keys.say("list")
    database = StateDir.for_folder(folder).keys_db
    database.write_bytes(b"no database at all " * 500)
    assert "put a sound copy in its place" in keys.refuse("create", "ci")


def test_a_running_plinth_up_sees_each_change_once_and_asks_for_a_key_from_the_first_on(folder: Path) -> None:
    keys = folder_keys(folder)
    keys.say("list")
    policies = load_folder(folder).policies
    with KeyDB.open(StateDir.for_folder(folder).keys_db) as database:
        access = FolderAccess(database)

        def look() -> AccessTable | None:
            return access.look(policies)

        first = look()
        assert first is not None
        assert (first.version, first.requires_key, len(first.policies)) == (1, False, 1)
        assert look() is None
        keys.make("ci")
        second = look()
        assert second is not None
        assert (second.version, second.requires_key, len(second.keys)) == (2, True, 1)
        assert look() is None
        assert look() is None
        keys.say("revoke", "ci")
        third = look()
        assert third is not None
        assert (third.requires_key, third.keys) == (True, ())
        fourth = access.look(())
        assert fourth is not None
        assert (fourth.version, fourth.policies) == (4, ())
