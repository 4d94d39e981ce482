"""Keys and policies on their way to a gateway, in virtual time: what it admits by, when, and through which troubles."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from plinth.cluster.kube.access_follower import AccessFollower
from plinth.cluster.kube.errors import KubeAway
from plinth.cluster.kube.key_store import KeySecrets
from plinth.cluster.kube.table_following import save_table
from plinth.desired.key_secrets import make_secret
from plinth.domain.access import AccessTable
from plinth.domain.control_lines import encode_access
from plinth.domain.keys import StoredKey, revoke
from plinth.tests.api.building import policy_document
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer, no_delay
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time
from plinth.tests.domain.test_keys import make_key

PACKAGES = Path(__file__).parents[4]
SECRETS, POLICIES = "/api/v1/secrets", "/apis/plinth.dev/v1alpha1/quotapolicies"
KEYS = "plinth-keys"


class World:
    """An API server with one key and its policy, and a gateway's follower."""

    def __init__(self, folder: Path) -> None:
        self.server = FakeApiServer()
        self.file = folder / "access.json"
        self.given: list[AccessTable] = []
        self.put_key(make_key(policies=("standard",)))
        self.put_policy()

    @property
    def table(self) -> AccessTable:
        return self.given[-1]

    @property
    def digests(self) -> set[str]:
        return {each.digest for each in self.table.keys}

    def put_key(self, key: StoredKey, namespace: str = KEYS) -> dict[str, Any]:
        return self.server.put(SECRETS, make_secret(key, namespace=namespace))

    def put_policy(self, requests: Any = 60) -> None:
        document = policy_document("standard", limits={"perKey": {"requestsPerMinute": requests}})
        document["metadata"]["namespace"] = "team-a"
        self.server.put(POLICIES, document)

    def follower(self, *, requires_key: bool = True) -> AccessFollower:
        return AccessFollower(
            self.server.client(),
            keys_namespace=KEYS,
            requires_key=requires_key,
            table_file=self.file,
            hand_over=self.given.append,
        )


def follow(folder: Path, story: Callable[[World], Awaitable[None]]) -> World:
    world = World(folder)

    async def whole() -> None:
        follower = world.follower()
        follower.start()
        try:
            await asyncio.sleep(0.5)
            await story(world)
        finally:
            await follower.close()

    run_in_virtual_time(whole())
    return world


async def away(_method: str, _path: str) -> None:
    raise KubeAway("nobody answers")


def test_a_table_holds_the_keys_and_their_policies(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        (key,), (policy,) = world.table.keys, world.table.policies
        assert (key.tenant, key.digest, key.policies) == ("team-a", "d0", ("team-a/standard",))
        assert (policy.name, policy.limits[0].amount) == ("team-a/standard", 60)
        assert (world.table.version, world.table.requires_key, len(world.given)) == (1, True, 1)

    follow(tmp_path, story)


def test_a_revoked_key_is_gone_within_a_fifth_of_a_second(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await KeySecrets(world.server.client(), KEYS).change("team-a", "ci", lambda key: revoke(key, now=1.0))
        await asyncio.sleep(0.2)
        assert world.digests == set()
        assert world.table.version == 2

    follow(tmp_path, story)


def test_a_deleted_secret_ends_its_key_too(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.server.call("DELETE", f"/api/v1/namespaces/{KEYS}/secrets/team-a.ci", seconds=1.0)
        await asyncio.sleep(0.2)
        assert world.digests == set()
        assert world.table.requires_key

    follow(tmp_path, story)


def test_secrets_elsewhere_or_without_the_label_are_no_keys(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.put_key(make_key("intruder", secrets=()), namespace="team-b")
        unlabelled = make_secret(make_key("other"), namespace=KEYS)
        del unlabelled["metadata"]["labels"]
        world.server.put(SECRETS, unlabelled)
        await asyncio.sleep(0.5)
        assert len(world.given) == 1

    follow(tmp_path, story)


def test_a_secret_that_holds_no_key_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        broken = make_secret(make_key("broken"), namespace=KEYS)
        broken["data"] = {}
        world.server.put(SECRETS, broken)
        world.put_policy(61)
        await asyncio.sleep(0.5)
        assert world.digests == {"d0"}
        assert world.table.policies[0].limits[0].amount == 61

    follow(tmp_path, story)
    assert "Secret team-a.broken holds no key" in caplog.text


def test_a_policy_that_cannot_be_read_keeps_its_last_good_limits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(world: World) -> None:
        world.put_policy("many")
        world.put_key(make_key("two", policies=("standard",)))
        await asyncio.sleep(0.5)
        assert len(world.table.keys) == 2
        assert world.table.policies[0].limits[0].amount == 60

    follow(tmp_path, story)
    assert "QuotaPolicy team-a/standard cannot be read" in caplog.text


def test_the_last_table_stays_while_the_api_server_is_away_and_outlives_a_restart(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.server.before = away
        again = world.follower()
        again.start()
        await asyncio.sleep(30.0)
        await again.close()
        assert world.given == [world.given[0]] * 2
        world.server.before = no_delay

    world = follow(tmp_path, story)
    assert stat.S_IMODE(world.file.stat().st_mode) == 0o600


def test_a_table_that_let_everybody_in_is_not_used_once_keys_are_required(tmp_path: Path) -> None:
    world = World(tmp_path)
    save_table(world.file, encode_access(AccessTable(version=7, requires_key=False)))

    async def story() -> None:
        world.server.before = away
        follower = world.follower(requires_key=True)
        follower.start()
        await asyncio.sleep(1.0)
        await follower.close()

    run_in_virtual_time(story())
    assert world.given == []


def test_versions_go_on_after_a_restart(tmp_path: Path) -> None:
    save_table(tmp_path / "access.json", encode_access(AccessTable(version=7)))

    async def story(world: World) -> None:
        assert [each.version for each in world.given] == [7, 8]

    follow(tmp_path, story)


def test_the_agent_loads_nothing_heavy_with_it() -> None:
    heavy = {"pydantic", "ray", "kopf", "kubernetes", "rich", "yaml", "plinth.api", "plinth.gateway"}
    program = f"import sys, plinth.cluster.kube.access_follower; print({heavy!r} & sys.modules.keys())"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGES, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == "set()"
