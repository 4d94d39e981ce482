"""A real API server takes Plinth's CRDs, refuses what they refuse, and can be taken away and given back."""

from __future__ import annotations

import pytest
import yaml
from fleet import SMOLLM2, make_model
from kube.access import KubectlError, Kubernetes, run_kubectl
from kube.control_plane import ControlPlane
from kube.processes import wait_until

from plinth.tests.api.building import model_document, policy_document

pytestmark = pytest.mark.kube


def test_the_crds_are_served_with_short_names_and_columns(control_plane: Kubernetes) -> None:
    served = control_plane.kubectl("api-resources", "--api-group=plinth.dev", "--no-headers")
    assert {line.split()[0] for line in served.splitlines()} >= {"gpupools", "modeldeployments"}
    assert {line.split()[1] for line in served.splitlines()} >= {"gpool", "mdl"}


def test_a_model_is_taken_and_shown(control_plane: Kubernetes, kube_namespace: str) -> None:
    model = make_model()
    model["metadata"]["namespace"] = kube_namespace
    control_plane.apply(model)
    assert "smollm2" in control_plane.kubectl("get", "mdl", "-n", kube_namespace)
    taken = control_plane.get("modeldeployment", "smollm2", kube_namespace)
    assert taken["spec"]["model"]["source"] == SMOLLM2


def test_a_rule_of_the_crd_refuses_without_any_webhook(
    control_plane: Kubernetes, kube_namespace: str
) -> None:
    model = make_model(scaling={"minReplicas": 3, "maxReplicas": 1})
    with pytest.raises(KubectlError, match="must") as refused:
        control_plane.kubectl("create", "-n", kube_namespace, "-f", "-", stdin=yaml.safe_dump(model))
    assert "spec.scaling" in str(refused.value)


def test_the_rules_cost_too_much_for_no_object_however_full(
    control_plane: Kubernetes, kube_namespace: str
) -> None:
    """The API server bounds what judging one object may cost; a CRD that might cost more it would not serve at all."""
    policy = policy_document("fullest", models=[f"m{number:062}" for number in range(64)])
    model = model_document(
        "fullest",
        model={"source": "hf://org/" + "n" * 1015},
        aliases=[f"a{number:063}@{'v' * 63}" for number in range(16)],
        fallbacks=[f"f{number:063}@{'v' * 63}" for number in range(8)],
        adapters=[
            {"name": f"l{number:062}", "source": f"file:///{number:02}{'x' * 1014}"} for number in range(16)
        ],
        engine={"args": {f"a{number:063}": "x" * 1024 for number in range(64)}},
    )
    for document in (policy, model):
        document["metadata"]["namespace"] = kube_namespace
        control_plane.apply(document)
        document["spec"] |= {"models": []} if document is policy else {"aliases": []}
        control_plane.apply(document)  # rules about a change see both


def test_an_account_may_only_do_what_it_was_allowed(control_plane: Kubernetes, kube_namespace: str) -> None:
    control_plane.kubectl("create", "serviceaccount", "reader", "-n", kube_namespace)
    as_reader = control_plane.account_kubeconfig(kube_namespace, "reader")

    def may_list(kind: str) -> bool:
        try:
            run_kubectl(as_reader, "get", kind, "-n", kube_namespace)
        except KubectlError as refusal:
            if "Forbidden" not in str(refusal):
                raise
            return False
        return True

    assert not may_list("configmaps")
    namespace, account = f"--namespace={kube_namespace}", f"--serviceaccount={kube_namespace}:reader"
    control_plane.kubectl("create", "role", "read", "--verb=list", "--resource=configmaps", namespace)
    control_plane.kubectl("create", "rolebinding", "read", "--role=read", account, namespace)
    wait_until(lambda: may_list("configmaps"), seconds=10, what="the role counts")
    assert not may_list("secrets")


def test_objects_outlive_the_api_server_and_etcd(own_control_plane: ControlPlane) -> None:
    own_control_plane.kubectl("create", "namespace", "stays")
    own_control_plane.etcd.kill()
    own_control_plane.api_server.kill()
    assert not own_control_plane.is_ready()
    own_control_plane.etcd.start()
    own_control_plane.api_server.start()
    own_control_plane.wait_ready()
    assert own_control_plane.get("namespace", "stays")["status"]["phase"] == "Active"


def test_the_controller_manager_empties_and_removes_a_namespace(own_control_plane: ControlPlane) -> None:
    own_control_plane.start_controller_manager()
    own_control_plane.kubectl("create", "namespace", "goes")
    own_control_plane.kubectl("create", "configmap", "thing", "-n", "goes")
    own_control_plane.kubectl("delete", "namespace", "goes", "--timeout=40s")
    with pytest.raises(KubectlError, match="NotFound"):
        own_control_plane.get("namespace", "goes")
