"""The chart on a real API server: taken whole, upgraded, rolled back and removed by real Helm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import COMBINATIONS, newer_chart, pod_specs, render, render_text
from chart_install import Installation, prepare
from kube.access import Kubernetes
from kube.fixtures import make_control_plane
from kube.installation import CHART, NAMESPACE, HelmError

from plinth.desired.key_secrets import KEYS_NAMESPACE

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    with make_control_plane(tmp_path_factory) as made:
        prepare(made)
        yield made


@pytest.fixture
def installation(cluster: Kubernetes) -> Iterator[Installation]:
    made = Installation(cluster)
    made.install({})
    yield made
    if "plinth" in made.helm("list", "--short"):
        made.uninstall()


def image_of(installation: Installation, name: str) -> str:
    containers: list[dict[str, Any]] = installation.get("deployment", name)["spec"]["template"]["spec"][
        "containers"
    ]
    return str(containers[0]["image"])


def as_pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The pod that a workload of this name would make; an empty volume stands for its claim, if it has one."""
    volumes = {"data": {"name": "data", "emptyDir": {}}} | {each["name"]: each for each in spec["volumes"]}
    metadata = {"name": name.split()[1], "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec | {"volumes": list(volumes.values())},
    }


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_api_server_takes_every_object_whatever_the_values(cluster: Kubernetes, combination: str) -> None:
    for name in (KEYS_NAMESPACE, "keys"):  # what is only tried makes no namespace for what belongs there
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    cluster.kubectl("apply", *flags, "-f", "-", stdin=render_text(COMBINATIONS[combination]))


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_pod_may_run_where_only_the_strictest_may(cluster: Kubernetes, combination: str) -> None:
    pods = [as_pod(name, spec) for name, spec in pod_specs(render(COMBINATIONS[combination]))]
    cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(pods))


def test_an_upgrade_and_its_rollback_change_what_was_asked_and_keep_the_secrets(
    installation: Installation, tmp_path: Path
) -> None:
    secrets = [installation.secret("plinth-engine", "secret"), installation.secret("plinth-gateway", "token")]
    assert len(set(secrets)) == len(secrets)
    assert all(len(each) >= 32 for each in secrets)
    before = image_of(installation, "plinth-operator")
    installation.upgrade(newer_chart(tmp_path), {"gateway": {"replicas": 5}, "redis": {"enabled": True}})
    assert image_of(installation, "plinth-operator") == "plinth/operator:99.0.0"
    assert installation.get("deployment", "plinth-gateway")["spec"]["replicas"] == 5
    password = installation.secret("plinth-redis", "password")
    installation.upgrade(newer_chart(tmp_path / "again"), {"redis": {"enabled": True}})
    assert installation.secret("plinth-redis", "password") == password
    assert f"requirepass {password}\n" in installation.secret("plinth-redis", "redis.conf")
    installation.helm("rollback", "plinth", "1")
    assert image_of(installation, "plinth-operator") == before
    assert installation.get("deployment", "plinth-gateway")["spec"]["replicas"] == 2
    assert "plinth-redis" not in installation.cluster.kubectl("get", "statefulset", "-n", NAMESPACE)
    after = [installation.secret("plinth-engine", "secret"), installation.secret("plinth-gateway", "token")]
    assert after == secrets


def test_an_upgrade_keeps_the_certificate_authority_that_the_operator_put_into_its_webhooks(
    installation: Installation, tmp_path: Path
) -> None:
    authority = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"
    hooks = {"ValidatingWebhookConfiguration": "validate", "MutatingWebhookConfiguration": "mutate"}
    for kind, prefix in hooks.items():
        ours = {"name": f"{prefix}.plinth.dev", "clientConfig": {"caBundle": authority}}
        body = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "plinth"},
            "webhooks": [ours],
        }
        flags = ("--server-side", "--field-manager=plinth", "-f", "-")
        installation.cluster.kubectl("apply", *flags, stdin=yaml.safe_dump(body))
    installation.upgrade(newer_chart(tmp_path), {"operator": {"replicas": 3}})
    for kind in hooks:
        assert installation.get(kind, "plinth")["webhooks"][0]["clientConfig"]["caBundle"] == authority


def test_an_upgrade_brings_the_crds_up_to_date(installation: Installation, tmp_path: Path) -> None:
    chart = newer_chart(tmp_path)
    path = chart / "files/crds/gpupools.plinth.dev.yaml"
    path.write_text(
        path.read_text().replace("shortNames:\n    - gpool", "shortNames:\n    - gpool\n    - newer")
    )
    installation.upgrade(chart, {})
    assert "newer" in installation.get("crd", "gpupools.plinth.dev")["spec"]["names"]["shortNames"]


def test_uninstalling_leaves_the_crds_their_objects_the_namespace_of_keys_and_nothing_else(
    installation: Installation,
) -> None:
    pool = {"apiVersion": "plinth.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "stays"}, "spec": {}}
    installation.cluster.apply(pool)
    installation.uninstall()
    assert installation.get("gpool", "stays")
    assert installation.get("namespace", KEYS_NAMESPACE)["status"]["phase"] == "Active"
    installation.cluster.kubectl("delete", "gpool", "stays")
    kinds = "deploy,sts,svc,sa,secret,role,rolebinding,netpol,pdb,cm,job"
    labels = "app.kubernetes.io/name=plinth"
    assert installation.cluster.list(kinds, "-A", "-l", labels) == []
    everywhere = "clusterrole,clusterrolebinding,validatingwebhookconfiguration,mutatingwebhookconfiguration"
    assert installation.cluster.list(everywhere, "-l", labels) == []
    # And the next installation takes both over without a word.
    installation.helm("install", "plinth", CHART, values={})


def test_a_value_that_is_wrong_leaves_the_release_as_it_was(installation: Installation) -> None:
    with pytest.raises(HelmError, match="replica"):
        installation.upgrade(CHART, {"gateway": {"replica": 3}})
    assert "deployed" in installation.helm("status", "plinth")
    assert installation.helm("history", "plinth", "--output", "yaml").count("revision:") == 1
