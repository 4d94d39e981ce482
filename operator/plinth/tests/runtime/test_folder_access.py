"""Keys and policies of a folder on their way to the gateway beside it, and the statuses that tell of them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from plinth.api.v1alpha1 import ConditionType, QuotaPolicyStatus, ResourceKey
from plinth.cli import main
from plinth.cluster.folder import FolderStore
from plinth.cluster.gateway_link import GatewayLink
from plinth.cluster.key_store import KeyDB
from plinth.cluster.state_dir import StateDir
from plinth.cluster.status_db import StatusDB
from plinth.controllers.ports import Statuses
from plinth.domain.access import AccessTable
from plinth.gateway.server.process import GatewayProcess
from plinth.runtime.folder_access import LOOK_SECONDS, FolderAccess
from plinth.runtime.folder_resources import FolderResources
from plinth.tests.api.building import policy_document
from plinth.tests.gateway.harness import eventually, scenario
from plinth.tests.runtime.gateway_alone import gateway_alone, terms_of

REVOKED_WITHIN_SECONDS = 1.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    served = tmp_path / "models"
    served.mkdir()
    write_policy(served)
    StateDir.for_folder(served).create()
    return served


def write_policy(folder: Path, requests: object = 60) -> None:
    document = policy_document("standard", limits={"perKey": {"requestsPerMinute": requests}})
    (folder / "policy.yaml").write_text(yaml.safe_dump(document))


def keys(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(main, ["keys", *words, "--folder", str(folder)])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


@dataclass
class Served:
    """A gateway with all of `plinth up` that tells it who may ask."""

    gateway: GatewayProcess
    link: GatewayLink
    access: FolderAccess
    resources: FolderResources
    said: list[str]

    def opens(self, secret: str) -> bool:
        return terms_of(self.gateway, secret, "default/chat") is not None


@asynccontextmanager
async def served(folder: Path, place: Path) -> AsyncIterator[Served]:
    state = StateDir.for_folder(folder)
    with KeyDB.open(state.keys_db) as keys_db, StatusDB.open(state.status_db) as database:
        access = FolderAccess(keys_db)
        resources = FolderResources(FolderStore(folder, database), lambda: access.keys)
        resources.read(time.time())
        async with gateway_alone(place) as gateway:
            link = GatewayLink(place / "g.sock", first_version=1, wake=lambda: None, clock=time.time)
            link.start()
            said: list[str] = []
            following = asyncio.create_task(
                access.follow(lambda: resources.policies, hand_over=link.admit_by, say=said.append)
            )
            try:
                yield Served(gateway, link, access, resources, said)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await link.close()


@scenario
async def test_everybody_is_let_in_until_there_is_a_key(folder: Path, tmp_path: Path) -> None:
    async with served(folder, tmp_path) as up:
        assert up.gateway.core.gate is None
        await eventually(lambda: up.opens(""))
        await asyncio.to_thread(keys, folder, "create", "ci")
        await eventually(lambda: not up.opens(""))


@scenario
async def test_a_revoked_key_is_refused_within_a_second(folder: Path, tmp_path: Path) -> None:
    async with served(folder, tmp_path) as up:
        secret = await asyncio.to_thread(keys, folder, "create", "ci", "--policy", "standard")
        await eventually(lambda: up.opens(secret))
        await asyncio.to_thread(keys, folder, "revoke", "ci")
        assert await eventually(lambda: not up.opens(secret)) < REVOKED_WITHIN_SECONDS
        assert not up.opens("")


@scenario
async def test_a_policy_s_edit_reaches_the_gateway_with_the_next_reading_of_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    async with served(folder, tmp_path) as up:
        secret = await asyncio.to_thread(keys, folder, "create", "ci", "--policy", "standard")
        await eventually(lambda: up.opens(secret))
        (folder / "policy.yaml").unlink()
        now = time.time()
        for later in (0.0, 3600.0):  # removed for good only when it stays away
            up.resources.read(now + later)
        await eventually(lambda: not up.opens(secret))


@scenario
async def test_a_gateway_that_is_met_again_is_told_again(folder: Path, tmp_path: Path) -> None:
    async with served(folder, tmp_path) as up:
        await eventually(lambda: up.gateway.core.gate is not None)
        up.gateway.core.gate = None
        up.gateway.control.close()
        await eventually(lambda: up.gateway.core.gate is not None)


@scenario
async def test_keys_that_cannot_be_read_are_told_of_once_and_the_last_ones_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(folder, tmp_path) as up:
        secret = await asyncio.to_thread(keys, folder, "create", "ci")
        await eventually(lambda: up.opens(secret))

        def broken(_self: FolderAccess, _policies: object) -> AccessTable | None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as fault:
            fault.setattr(FolderAccess, "look", broken)
            await asyncio.sleep(3 * LOOK_SECONDS)
        assert up.opens(secret)
        assert up.said == ["the keys cannot be read just now, those read last go on: disk I/O error"]
        await asyncio.to_thread(keys, folder, "revoke", "ci")
        await eventually(lambda: not up.opens(secret))


@scenario
async def test_keys_that_are_restored_from_a_backup_count_within_a_second_and_never_open_the_gateway(
    folder: Path, tmp_path: Path
) -> None:
    path = StateDir.for_folder(folder).keys_db
    async with served(folder, tmp_path) as up:
        first = await asyncio.to_thread(keys, folder, "create", "first")
        await eventually(lambda: up.opens(first))
        backup = Path(shutil.copy(path, tmp_path / "backup.db"))
        second = await asyncio.to_thread(keys, folder, "create", "second")
        await eventually(lambda: up.opens(second))
        path.unlink()
        await eventually(lambda: up.said)
        assert up.opens(first)
        backup.replace(path)
        assert await eventually(lambda: not up.opens(second)) < REVOKED_WITHIN_SECONDS
        assert up.opens(first)
        with KeyDB.open(tmp_path / "none.db"):
            (tmp_path / "none.db").replace(path)
            await eventually(lambda: not up.opens(first))
        assert not up.opens("")


def statuses(folder: Path) -> QuotaPolicyStatus:
    """The policy's status after a pass of the cycle."""
    state = StateDir.for_folder(folder)
    with KeyDB.open(state.keys_db) as keys_db, StatusDB.open(state.status_db) as database:
        access = FolderAccess(keys_db)
        resources = FolderResources(FolderStore(folder, database), lambda: access.keys)
        resources.read(time.time())
        access.look(resources.policies)
        resources.write(Statuses())
        found = database.read_statuses()[ResourceKey("QuotaPolicy", "default", "standard")]
    assert isinstance(found, QuotaPolicyStatus)
    return found


def test_a_policy_s_status_says_how_many_keys_name_it_and_what_they_may_do(folder: Path) -> None:
    assert statuses(folder).keys == 0
    keys(folder, "create", "ci", "--policy", "standard")
    keys(folder, "create", "other")
    found = statuses(folder)
    assert (found.keys, found.limits) == (1, ["each key: 60 requests a minute"])
    assert found.observed_generation == 1
    keys(folder, "revoke", "ci")
    assert statuses(folder).keys == 0


def test_a_broken_edit_is_told_in_the_status_while_the_last_good_limits_go_on(folder: Path) -> None:
    statuses(folder)
    write_policy(folder, requests=-1)
    found = statuses(folder)
    accepted = next(each for each in found.conditions if each.type == ConditionType.ACCEPTED)
    assert accepted.status == "False"
    assert "requestsPerMinute" in accepted.message
    assert found.limits == ["each key: 60 requests a minute"]
