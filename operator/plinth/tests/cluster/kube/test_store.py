"""The store of resources, fed with objects as an API server gives them."""

from __future__ import annotations

from typing import Any

from plinth.api.v1alpha1 import GPUPoolStatus, ModelDeploymentStatus, ResourceKey
from plinth.cluster.kube.store import KubernetesStore
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.stored_objects import (
    MODELS,
    POOLS,
    make_model,
    make_pool,
    make_status,
    put_model,
)

KEY = ResourceKey("ModelDeployment", "team-a", "smol")


def edited(item: dict[str, Any], server: FakeApiServer, **changes: Any) -> dict[str, Any]:
    return server.put(MODELS, {**item, **changes})


def test_objects_come_out_sorted_by_name_with_the_time_they_were_created_at() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    for name in ("b", "a"):
        store.put(put_model(server, name))
    store.put(server.put(POOLS, make_pool("h200", accelerator="H200")))
    state = store.read()
    assert [each.resource.metadata.name for each in state.models] == ["a", "b"]
    assert state.models[0].first_seen == 1_767_225_600
    assert state.pools[0].resource.spec.accelerator == "H200"
    assert str(state.pools[0].resource.key) == "GPUPool h200"


def test_reading_costs_nothing_while_nothing_changed() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    item = put_model(server)
    store.put(item)
    state = store.read()
    assert not store.put(item)
    assert store.read() is state


def test_a_plan_depends_on_the_spec_and_the_metadata_but_not_on_the_status() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    item = put_model(server)
    assert store.put(item)
    spec = store.read().models[0].resource.spec
    item = edited(item, server, status={"replicas": 3})
    assert not store.put(item)
    assert store.read().models[0].resource.status == ModelDeploymentStatus(replicas=3)
    assert store.read().models[0].resource.spec is spec
    assert store.put(edited(item, server, spec={**item["spec"], "servedName": "chat"}))
    labelled = {**item["metadata"], "labels": {"team": "a"}}
    assert store.put(edited(item, server, metadata=labelled))


def test_an_older_version_that_comes_late_changes_nothing() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    old = put_model(server)
    new = edited(old, server, spec={**old["spec"], "servedName": "chat"})
    store.put(new)
    assert not store.put(old)
    assert store.read().models[0].resource.spec.served_name == "chat"


def test_what_the_api_server_took_and_plinth_refuses_keeps_the_last_good_version_under_the_new_generation() -> (
    None
):
    server, store = FakeApiServer(), KubernetesStore()
    item = put_model(server)
    store.put(item)
    assert store.put(edited(item, server, spec={"model": {"source": "hf://org/smol"}, "replicas": 3}))
    (model,) = store.read().models
    assert "unknown field spec.replicas" in model.invalid_edit
    assert model.resource.spec.model.source == "hf://org/smol"
    assert model.resource.metadata.generation == 2
    assert not store.read().refused
    store.put(edited(item, server, spec={**item["spec"], "servedName": "chat"}))
    assert store.read().models[0].invalid_edit == ""


def test_an_object_that_never_had_a_good_version_is_told_of_and_not_served() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    store.put(put_model(server, replicas=3))
    state = store.read()
    assert not state.models
    assert state.refused[0].key == KEY
    assert "unknown field spec.replicas" in state.refused[0].message
    assert state.refused[0].metadata.generation == 1


def test_a_new_object_of_an_old_name_inherits_nothing() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    first = put_model(server)
    store.put(first)
    second = {**make_model(replicas=3), "metadata": {**first["metadata"], "uid": "another"}}
    assert store.put(server.put(MODELS, second))
    assert not store.read().models
    assert not store.remove(KEY, first["metadata"]["uid"])
    assert store.remove(KEY, "another")
    assert not store.read().refused


def test_a_model_that_is_being_deleted_is_served_no_longer_and_a_pool_is_still_told_of() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    leaving = {"finalizers": ["somebody/else"], "deletionTimestamp": "2026-02-01T00:00:00Z"}
    for collection, item in ((MODELS, make_model()), (POOLS, make_pool())):
        store.put(server.put(collection, {**item, "metadata": {**item["metadata"], **leaving}}))
    assert not store.read().models
    assert store.read().pools[0].resource.metadata.deletion_timestamp == "2026-02-01T00:00:00Z"


def test_a_status_that_plinth_did_not_write_counts_as_none() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    item = put_model(server)
    store.put(edited(item, server, status={"replicas": "three"}))
    assert store.read().models[0].resource.status == ModelDeploymentStatus()
    pool = server.put(POOLS, {**make_pool(), "status": {"conditions": "none"}})
    store.put(pool)
    assert store.read().pools[0].resource.status == GPUPoolStatus()


def test_a_status_is_read_back_as_it_was_written() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    status = make_status(replicas=2)
    body = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    store.put(edited(put_model(server), server, status=body))
    assert store.read().models[0].resource.status == status


def test_the_answer_to_a_write_does_not_bring_back_what_has_gone() -> None:
    server, store = FakeApiServer(), KubernetesStore()
    item = put_model(server)
    store.put(item)
    store.remove(KEY, item["metadata"]["uid"])
    store.take_answer(edited(item, server, status={"replicas": 3}))
    assert not store.read().models
