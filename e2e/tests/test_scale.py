"""`kubectl scale` beside files in Git: who decides how many replicas, and how the number comes back to the files."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from kube.access import KubectlError, Kubernetes

pytestmark = pytest.mark.kube


def make_file(**scaling: int) -> str:
    """A model as it would lie in Git."""
    model = {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "chat"},
        "spec": {"model": {"source": "hf://org/chat"}, "scaling": {"maxReplicas": 6, **scaling}},
    }
    return yaml.safe_dump(model)


class Team:
    """Somebody with files and kubectl, in one namespace."""

    def __init__(self, cluster: Kubernetes, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self._cluster.kubectl("-n", self._namespace, *arguments, stdin=stdin)

    def sync(self, file: str, *flags: str) -> None:
        """Apply the file as GitOps does."""
        self.kubectl("apply", "--server-side", "--field-manager=gitops", *flags, "-f", "-", stdin=file)

    def scale(self, replicas: int) -> None:
        self.kubectl("scale", "modeldeployment/chat", f"--replicas={replicas}")

    @property
    def model(self) -> dict[str, Any]:
        return self._cluster.get("modeldeployment", "chat", self._namespace)

    @property
    def least(self) -> int:
        return int(self.model["spec"]["scaling"]["minReplicas"])


@pytest.fixture
def team(control_plane: Kubernetes, kube_namespace: str) -> Team:
    return Team(control_plane, kube_namespace)


def test_scale_sets_the_least_and_nothing_else(team: Team) -> None:
    team.sync(make_file(minReplicas=1))
    before = team.model["spec"]
    team.scale(3)
    assert team.model["spec"] == before | {"scaling": before["scaling"] | {"minReplicas": 3}}


def test_scale_never_goes_past_the_most(team: Team) -> None:
    team.sync(make_file(minReplicas=1))
    with pytest.raises(KubectlError, match="maxReplicas"):
        team.scale(7)
    assert team.least == 1


def test_a_file_that_leaves_the_number_out_never_fights_with_scale(team: Team) -> None:
    team.sync(make_file())
    team.scale(3)
    team.sync(make_file())
    assert team.least == 3


def test_a_file_that_states_the_number_is_told_of_the_conflict(team: Team) -> None:
    team.sync(make_file(minReplicas=1))
    team.scale(3)
    with pytest.raises(KubectlError, match=r"\.spec\.scaling\.minReplicas"):
        team.sync(make_file(minReplicas=1))
    assert team.least == 3


def test_forcing_gives_the_number_back_to_the_file(team: Team) -> None:
    team.sync(make_file(minReplicas=1))
    team.scale(3)
    team.sync(make_file(minReplicas=1), "--force-conflicts")
    assert team.least == 1
    team.sync(make_file(minReplicas=2))
    assert team.least == 2


def test_a_plain_apply_brings_the_files_number_back(team: Team) -> None:
    team.kubectl("apply", "-f", "-", stdin=make_file(minReplicas=1))
    team.scale(3)
    team.kubectl("apply", "-f", "-", stdin=make_file(minReplicas=1))
    assert team.least == 1


def test_who_set_the_number_is_to_be_seen(team: Team) -> None:
    team.sync(make_file(minReplicas=1))
    team.scale(3)
    fields = team.kubectl("get", "mdl", "chat", "--show-managed-fields", "-o", "json")
    managers = {
        each["manager"]
        for each in yaml.safe_load(fields)["metadata"]["managedFields"]
        if "f:minReplicas" in str(each["fieldsV1"])
    }
    assert managers == {"kubectl"}
