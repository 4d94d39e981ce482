"""The API server's resources behind the cycle's port."""

from __future__ import annotations

import pytest

from plinth.api.v1alpha1 import ModelDeploymentStatus, QuotaPolicyStatus, ResourceKey
from plinth.cluster.kube.status_writer import StatusWriter
from plinth.cluster.kube.store import KubernetesStore
from plinth.controllers.ports import Statuses
from plinth.domain.fleet import ModelKey
from plinth.domain.keys import StoredKey, revoke
from plinth.runtime.kube_resources import KubeResources
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.stored_objects import POOLS, make_pool, make_status, put_model, put_policy
from plinth.tests.domain.test_keys import make_key


class Desk:
    def __init__(self) -> None:
        self.server = FakeApiServer()
        self.store = KubernetesStore()
        self.writer = StatusWriter(self.server.client(), self.store)
        self.keys: list[StoredKey] = []
        self.resources = KubeResources(self.store, self.writer, lambda: self.keys)

    def policy_status(self, name: str = "standard") -> QuotaPolicyStatus:
        found = self.writer.wanted(ResourceKey("QuotaPolicy", "team-a", name))
        assert isinstance(found, QuotaPolicyStatus)
        return found


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.store.put(put_model(made.server, "a"))
    made.store.put(put_model(made.server, "b"))
    made.store.put(made.server.put(POOLS, make_pool()))
    return made


def write(desk: Desk, **statuses: ModelDeploymentStatus) -> int:
    models = {ModelKey("team-a", name): status for name, status in statuses.items()}
    return desk.resources.write(Statuses(models=models))


def test_a_status_is_read_back_at_once_though_it_is_not_written_yet(desk: Desk) -> None:
    assert desk.resources.read(0).models[0].resource.status == ModelDeploymentStatus()
    assert write(desk, a=make_status()) == 1
    a, b = desk.resources.read(1).models
    assert a.resource.status == make_status()
    assert b.resource.status == ModelDeploymentStatus()
    assert desk.server.writes == []


def test_a_model_of_which_nothing_changed_is_the_same_object_on_each_pass(desk: Desk) -> None:
    write(desk, a=make_status(), b=make_status())
    before = desk.resources.read(0).models
    desk.store.put(put_model(desk.server, "b", servedName="chat"))
    after = desk.resources.read(1).models
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert after[1].resource.spec.served_name == "chat"


def test_pools_are_read_with_their_status(desk: Desk) -> None:
    (pool,) = desk.resources.read(0).pools
    desk.resources.write(Statuses(pools={"h200": pool.status.model_copy(update={"nodes": 2})}))
    assert desk.resources.read(1).pools[0].status.nodes == 2


def test_an_object_that_was_never_valid_gets_a_status_that_says_why_once(desk: Desk) -> None:
    desk.store.put(put_model(desk.server, "wrong", replicas=3))
    assert [each.resource.metadata.name for each in desk.resources.read(100.0).models] == ["a", "b"]
    assert write(desk) == 1
    status = desk.writer.wanted(ResourceKey("ModelDeployment", "team-a", "wrong"))
    assert status is not None
    assert status.reason == "InvalidSpec"
    assert status.observed_generation == 1
    accepted, ready = status.conditions
    assert (accepted.type, accepted.status) == ("Accepted", "False")
    assert "unknown field spec.replicas" in accepted.message
    assert (ready.type, ready.status) == ("Ready", "False")


def test_a_policy_s_status_counts_its_keys_and_is_made_again_only_when_that_changes(desk: Desk) -> None:
    desk.store.put(put_policy(desk.server, limits={"perKey": {"concurrency": 2}}))
    desk.resources.read(100.0)
    assert write(desk) == 1
    first = desk.policy_status()
    assert (first.keys, first.limits) == (0, ["each key: 2 requests at once"])
    desk.resources.read(200.0)
    assert write(desk) == 0
    assert desk.policy_status() is first
    desk.keys = [make_key("ci", policies=("standard",)), make_key("other", "team-b", policies=("standard",))]
    assert write(desk) == 1
    assert desk.policy_status().keys == 1
    desk.keys = [revoke(desk.keys[0], now=1.0)]
    assert write(desk) == 1
    assert desk.policy_status().keys == 0
    ready = desk.policy_status().conditions[1]
    assert ready.last_transition_time == first.conditions[1].last_transition_time


def test_a_policy_that_is_gone_has_no_status_and_one_that_was_never_valid_has_one_that_says_why(
    desk: Desk,
) -> None:
    item = put_policy(desk.server)
    desk.store.put(item)
    desk.store.put(put_policy(desk.server, "wrong", models="all"))
    desk.resources.read(100.0)
    write(desk)
    assert desk.policy_status().reason == "Valid"
    assert desk.policy_status("wrong").reason == "InvalidSpec"
    desk.store.remove(ResourceKey("QuotaPolicy", "team-a", "standard"), item["metadata"]["uid"])
    write(desk)
    assert desk.writer.wanted(ResourceKey("QuotaPolicy", "team-a", "standard")) is None
