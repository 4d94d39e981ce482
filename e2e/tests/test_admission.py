"""The chart's webhooks on a real API server: what they see, what they never see, and what happens without them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from admission import NAMESPACE, WEBHOOKS, Admission, chart_webhooks, install_webhooks, wait_trusted
from kube.access import KubectlError, Kubernetes
from kube.fixtures import make_control_plane

from plinth.cluster.kube import certificate_rotation
from plinth.cluster.kube.certificates import SKEW_SECONDS, make_pair
from plinth.domain.fleet import FleetSnapshot
from plinth.runtime import admission_certificates
from plinth.tests.domain.builders import make_model, make_node, make_pool, make_qwen_artifact, make_snapshot

pytestmark = pytest.mark.kube

QWEN = "hf://Qwen/Qwen2.5-32B-Instruct"
REFUSAL = "spec.parallelism.tensor: 3 does not divide the model's 8 KV heads; 1, 2, 4 or 8 would"
Manifest = dict[str, Any]


def model(name: str, /, **spec: Any) -> Manifest:
    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"source": QWEN}, **spec},
    }


IMPOSSIBLE: Manifest = {"parallelism": {"tensor": 3}}


def make_fleet(**spec: Any) -> FleetSnapshot:
    return make_snapshot(
        pools=(make_pool("h200"),),
        nodes=(replace(make_node("n1", accelerators=8), pool="h200"),),
        models=(make_model("known", "elsewhere", source=QWEN, artifact=make_qwen_artifact(), **spec),),
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """An API server of this module's own; nobody waits a quarter of a minute for the next look."""
    with make_control_plane(tmp_path_factory) as made, pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(made.kubeconfig))
        environment.setattr(admission_certificates, "LOOK_SECONDS", 0.3)
        environment.setattr(certificate_rotation, "SETTLE_SECONDS", 1.0)
        made.kubectl("create", "namespace", NAMESPACE)
        yield made


@pytest.fixture
def admission(cluster: Kubernetes) -> Iterator[Admission]:
    """The operator's webhook server, trusted."""
    made = Admission(cluster, make_fleet())
    made.start()
    install_webhooks(cluster, made.port)
    wait_trusted(cluster)
    yield made
    made.stop()
    cluster.kubectl("delete", "mdl,gpool", "--all", "-n", "default", "--wait=false")


def apply(cluster: Kubernetes, manifest: Manifest, *flags: str) -> str:
    return cluster.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump(manifest))


def refusal(cluster: Kubernetes, manifest: Manifest, *flags: str) -> str:
    with pytest.raises(KubectlError) as refused:
        apply(cluster, manifest, *flags)
    return str(refused.value)


def test_what_cannot_work_is_refused_in_the_planner_s_words(
    cluster: Kubernetes, admission: Admission
) -> None:
    said = refusal(cluster, model("a", **IMPOSSIBLE))
    assert said.endswith(f'admission webhook "validate.plinth.dev" denied the request: {REFUSAL}')
    assert admission.asked == 1


def test_server_side_apply_is_refused_alike(cluster: Kubernetes, admission: Admission) -> None:
    assert REFUSAL in refusal(cluster, model("a", **IMPOSSIBLE), "--server-side")
    assert admission.asked == 1


def test_the_served_name_is_written_out_and_applying_again_changes_nothing(
    cluster: Kubernetes, admission: Admission
) -> None:
    assert admission.asked == 0
    for flags in ((), ("--server-side", "--force-conflicts")):
        apply(cluster, model("named"), *flags)
        first = cluster.get("mdl", "named")
        apply(cluster, model("named"), *flags)
        again = cluster.get("mdl", "named")
        assert first["spec"]["servedName"] == "named"
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        assert again["metadata"]["generation"] == 1


def test_what_may_be_mended_elsewhere_is_taken_with_a_warning(
    cluster: Kubernetes, admission: Admission
) -> None:
    assert admission.asked == 0
    answer = cluster.kubectl(
        "apply", "-f", "-", "--warnings-as-errors=false", stdin=yaml.safe_dump(model("early", pool="h100"))
    )
    assert "created" in answer
    with pytest.raises(KubectlError, match="there is no GPUPool h100; there is h200"):
        apply(cluster, model("early-too", pool="h100"), "--warnings-as-errors")


def test_an_edit_of_labels_is_taken_whatever_became_of_the_fleet(
    cluster: Kubernetes, admission: Admission
) -> None:
    apply(cluster, model("labelled"))
    admission.fleet = make_fleet(served_name="labelled")  # by now it would be refused
    cluster.kubectl("label", "mdl", "labelled", "team=a")
    assert admission.asked == 2
    with pytest.raises(KubectlError, match="elsewhere/known already answers to the name labelled"):
        apply(cluster, model("labelled-too", servedName="labelled"))


def test_a_deletion_is_never_asked_about_nor_is_the_end_of_a_finalizer(
    cluster: Kubernetes, admission: Admission
) -> None:
    held = model("held")
    held["metadata"]["finalizers"] = ["plinth.dev/release"]
    apply(cluster, held)
    asked = admission.asked
    cluster.kubectl("delete", "mdl", "held", "--wait=false")
    assert cluster.get("mdl", "held")["metadata"]["deletionTimestamp"]
    release = json.dumps({"metadata": {"finalizers": None}, "spec": IMPOSSIBLE})
    cluster.kubectl("patch", "mdl", "held", "--type=merge", "-p", release)
    assert "held" not in [each["metadata"]["name"] for each in cluster.list("mdl")]
    assert admission.asked == asked


def test_a_scale_that_breaks_a_rule_is_refused_by_the_crd(cluster: Kubernetes, admission: Admission) -> None:
    apply(cluster, model("scaled", scaling={"maxReplicas": 2}))
    cluster.kubectl("scale", "mdl", "scaled", "--replicas=2")
    with pytest.raises(KubectlError, match="set maxReplicas to 3 or more, or minReplicas to 2 or less"):
        cluster.kubectl("scale", "mdl", "scaled", "--replicas=3")
    assert admission.asked == 1


def test_a_fault_of_ours_lets_objects_pass(cluster: Kubernetes, admission: Admission) -> None:
    admission.fleet = "no fleet at all"  # type: ignore[assignment] # a fault
    assert "created" in apply(cluster, model("lucky", **IMPOSSIBLE))
    assert admission.asked == 1


def test_a_pool_cannot_move_and_says_what_to_do(cluster: Kubernetes, admission: Admission) -> None:
    pool = {"apiVersion": "plinth.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "team-a"}}
    apply(cluster, {**pool, "spec": {"namespace": "team-a"}})
    said = refusal(cluster, {**pool, "spec": {"namespace": "team-b"}}, "--server-side", "--force-conflicts")
    assert "spec.namespace: Invalid value" in said
    assert "must stay as it was made; make a second GPUPool for the other namespace" in said
    assert admission.asked == 1


def test_without_the_webhook_the_crd_still_refuses_and_everything_can_be_deleted(
    cluster: Kubernetes, admission: Admission
) -> None:
    held = model("left")
    held["metadata"]["finalizers"] = ["plinth.dev/release"]
    apply(cluster, held)
    admission.stop()
    assert "must be at most maxReplicas, got 3; set maxReplicas to 3 or more" in refusal(
        cluster, model("b", scaling={"minReplicas": 3})
    )
    assert "created" in apply(cluster, model("c", **IMPOSSIBLE))
    began = time.monotonic()
    cluster.kubectl("delete", "mdl", "c")
    cluster.kubectl("delete", "mdl", "left", "--wait=false")
    cluster.kubectl("patch", "mdl", "left", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    assert time.monotonic() - began < 5
    assert "left" not in [each["metadata"]["name"] for each in cluster.list("mdl")]


def test_a_lost_bundle_is_put_back_and_nothing_else_of_the_chart_s_is_touched(
    cluster: Kubernetes, admission: Admission
) -> None:
    install_webhooks(cluster, admission.port)
    for kind in WEBHOOKS:
        remove = '[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]'
        cluster.kubectl("patch", kind, "plinth", "--type=json", "-p", remove)
    wait_trusted(cluster)
    for wanted in chart_webhooks():
        (found,), (chart,) = cluster.get(wanted["kind"], "plinth")["webhooks"], wanted["webhooks"]
        assert {name: found[name] for name in chart if name not in {"clientConfig", "rules"}} == {
            name: value for name, value in chart.items() if name not in {"clientConfig", "rules"}
        }
        assert found["rules"][0]["operations"] == ["CREATE", "UPDATE"]
    assert REFUSAL in refusal(cluster, model("a", **IMPOSSIBLE))


def test_no_edit_slips_past_while_certificates_rotate_every_second(cluster: Kubernetes) -> None:
    """Each pair is past two thirds of its life when it is made, so the next one is made at once."""

    def short_lived(names: Any, now: float) -> Any:
        return make_pair(names, now, life_seconds=SKEW_SECONDS / 4)

    admission = Admission(cluster, make_fleet(), make=short_lived)
    cluster.kubectl("delete", "secret", "-n", NAMESPACE, "--all")
    admission.start()
    install_webhooks(cluster, admission.port)
    wait_trusted(cluster)
    served = set()
    until = time.monotonic() + 12
    try:
        while time.monotonic() < until:
            assert REFUSAL in refusal(cluster, model("a", **IMPOSSIBLE))
            secret = cluster.get("secret", certificate_rotation.SECRET_NAME, NAMESPACE)
            served.add(secret["data"]["tls.crt"])
    finally:
        admission.stop()
    assert len(served) >= 4


def test_the_chart_asks_for_what_admission_promises() -> None:
    for configuration in chart_webhooks():
        (webhook,) = configuration["webhooks"]
        (rule,) = webhook["rules"]
        assert rule["operations"] == ["CREATE", "UPDATE"]
        assert sorted(rule["resources"]) == ["gpupools", "modeldeployments", "quotapolicies"]
        assert "!has(object.metadata.deletionTimestamp)" in [
            each["expression"] for each in webhook["matchConditions"]
        ]
        assert (webhook["failurePolicy"], webhook["sideEffects"], webhook["timeoutSeconds"]) == (
            *("Ignore", "None", 3),
        )
