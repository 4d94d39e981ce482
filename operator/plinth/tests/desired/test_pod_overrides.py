"""A partial pod template over a whole one: what is merged, what is replaced, what is taken away."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plinth.desired.pod_overrides import lay_over

POD: dict[str, Any] = {
    "restartPolicy": "Never",
    "nodeSelector": {"zone": "a"},
    "containers": [
        {
            "name": "ray",
            "image": "engine:1",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        }
    ],
    "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    "tolerations": [{"key": "a"}],
}


def container(**override: Any) -> dict[str, Any]:
    found: dict[str, Any] = lay_over(POD, {"containers": [{"name": "ray", **override}]})["containers"][0]
    return found


def test_fields_and_mappings_are_merged_key_by_key() -> None:
    merged = lay_over(POD, {"priorityClassName": "high", "nodeSelector": {"rack": "r1"}})
    assert merged["priorityClassName"] == "high"
    assert merged["nodeSelector"] == {"zone": "a", "rack": "r1"}
    assert merged["restartPolicy"] == "Never"


def test_null_takes_a_key_away() -> None:
    assert "nodeSelector" not in lay_over(POD, {"nodeSelector": None})
    assert lay_over(POD, {"nodeSelector": {"zone": None}})["nodeSelector"] == {}


def test_a_container_of_the_same_name_is_changed_in_its_place_and_a_new_one_comes_last() -> None:
    merged = lay_over(POD, {"containers": [{"name": "logs", "image": "l"}, {"name": "ray", "image": "mine"}]})
    assert [(each["name"], each["image"]) for each in merged["containers"]] == [
        ("ray", "mine"),
        ("logs", "l"),
    ]
    assert merged["containers"][0]["env"] == POD["containers"][0]["env"]


def test_a_variable_of_the_same_name_is_replaced_whole() -> None:
    source = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    assert container(env=[source, {"name": "C", "value": "3"}])["env"] == [
        source,
        {"name": "B", "value": "2"},
        {"name": "C", "value": "3"},
    ]


def test_a_volume_of_the_same_name_is_replaced_whole_since_it_has_one_source() -> None:
    merged = lay_over(POD, {"volumes": [{"name": "cache", "hostPath": {"path": "/nvme"}}]})
    assert merged["volumes"] == [
        {"name": "cache", "hostPath": {"path": "/nvme"}},
        {"name": "tmp", "emptyDir": {}},
    ]


def test_mounts_are_told_apart_by_their_path() -> None:
    mounts = [{"mountPath": "/cache", "name": "other"}, {"mountPath": "/more", "name": "cache"}]
    assert container(volumeMounts=mounts)["volumeMounts"] == [
        {"name": "other", "mountPath": "/cache"},
        {"name": "cache", "mountPath": "/more"},
    ]


def test_an_entry_can_be_taken_away() -> None:
    gone = lay_over(POD, {"volumes": [{"name": "tmp", "$patch": "delete"}]})
    assert [each["name"] for each in gone["volumes"]] == ["cache"]
    assert container(env=[{"name": "A", "$patch": "delete"}])["env"] == [{"name": "B", "value": "2"}]


def test_a_list_whose_entries_have_no_name_is_replaced() -> None:
    assert lay_over(POD, {"tolerations": [{"key": "b"}]})["tolerations"] == [{"key": "b"}]
    assert container(args=["--x"])["args"] == ["--x"]


def test_an_entry_that_lacks_its_name_is_left_for_kubernetes_to_refuse() -> None:
    assert {"image": "x"} in lay_over(POD, {"containers": [{"image": "x"}]})["containers"]


LEAVES = st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner), max_leaves=8)
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), TREES)


@given(MAPPINGS, MAPPINGS)
def test_laying_the_same_over_again_changes_nothing(base: dict[str, Any], override: dict[str, Any]) -> None:
    once = lay_over(base, override)
    assert lay_over(once, override) == once


@given(MAPPINGS)
def test_nothing_laid_over_changes_nothing(base: dict[str, Any]) -> None:
    assert lay_over(base, {}) == base
