"""The product as platform teams use it: helm install, kubectl apply, a streamed answer, kubectl delete leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_platform import Platform, installed, make_model, small_pool
from kube.cluster import Cluster
from kube.processes import Process, wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]
TEAM = "team-a"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, kuberay: Process) -> Iterator[Platform]:
    assert kuberay.runs()
    cluster.kubectl("create", "namespace", TEAM)
    with installed(cluster) as made:
        cluster.apply(small_pool())
        yield made


def test_a_model_that_is_applied_answers_and_one_that_is_deleted_leaves_nothing(platform: Platform) -> None:
    cluster = platform.cluster
    cluster.apply(make_model("smol", TEAM))
    platform.wait_ready("smol", TEAM)
    assert platform.ask("smol")
    assert [model.id for model in platform.client.models.list()] == ["smol"]

    row = cluster.kubectl("get", "mdl", "smol", "-n", TEAM)
    assert "1/1" in row
    assert "Serving" in row
    assert "LlamaCpp" in cluster.kubectl("describe", "mdl", "smol", "-n", TEAM)

    cluster.kubectl("delete", "mdl", "smol", "-n", TEAM, "--timeout=60s")
    wait_until(
        lambda: not cluster.list("pods", "-A", "-l", "ray.io/node-type=worker"),
        seconds=90,
        what="the idle worker is gone",
        pause=1.0,
    )
    cluster.kubectl("delete", "gpool", "cpu", "--timeout=120s")
    platform.wait_gone(TEAM)
