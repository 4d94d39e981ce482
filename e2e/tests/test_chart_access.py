"""What each account of the chart may do, asked of a real API server; and above all what it must not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart_install import Installation, prepare
from kube.access import Kubernetes
from kube.fixtures import make_control_plane
from kube.installation import NAMESPACE

pytestmark = pytest.mark.kube

ACTION = re.compile(
    r"(?P<verb>\S+) (?P<resource>[a-z]+)(?P<group>(\.[a-z0-9-]+)*)(/(?P<subresource>\w+))?"
    r"(:(?P<name>\S+))?( in (?P<namespace>\S+))?"
)
# team-a is named in the values, team-b is not. Without "in", the whole cluster is meant.
MAY = {
    "plinth-operator": """
        watch gpupools.plinth.dev
        patch gpupools.plinth.dev
        patch gpupools.plinth.dev/status
        update gpupools.plinth.dev/finalizers
        watch modeldeployments.plinth.dev
        patch modeldeployments.plinth.dev/status
        watch quotapolicies.plinth.dev
        patch quotapolicies.plinth.dev/status
        watch secrets in plinth-keys
        create endpointslices.discovery.k8s.io in team-b
        delete endpointslices.discovery.k8s.io in team-b
        create events.events.k8s.io in team-b
        list nodes
        get secrets in plinth-system
        create secrets in plinth-system
        create rayclusters.ray.io in plinth-system
        watch pods in plinth-system
        delete pods in plinth-system
        update leases.coordination.k8s.io in plinth-system
        get secrets in team-a
        create rayclusters.ray.io in team-a
        list pods in team-a
        delete pods in team-a
        patch secrets in team-a
        patch validatingwebhookconfigurations.admissionregistration.k8s.io:plinth
        patch mutatingwebhookconfigurations.admissionregistration.k8s.io:plinth
    """,
    "plinth-gateway": """
        list endpointslices.discovery.k8s.io
        watch endpointslices.discovery.k8s.io in team-b
        list quotapolicies.plinth.dev
        watch quotapolicies.plinth.dev in team-b
        list secrets in plinth-keys
        watch secrets in plinth-keys
    """,
    "plinth-release": """
        list gpupools.plinth.dev
        patch gpupools.plinth.dev
        patch modeldeployments.plinth.dev in team-b
        patch deployments.apps/scale:plinth-operator in plinth-system
        list pods in plinth-system
        delete leases.coordination.k8s.io:plinth-operator in plinth-system
        delete secrets:plinth-webhook-certificates in plinth-system
        delete endpointslices.discovery.k8s.io:plinth.table in plinth-system
    """,
    "plinth-test": """
        create secrets in plinth-keys
        delete secrets:plinth-system.helm-test in plinth-keys
    """,
}
NOBODY = """
    create pods in plinth-system
    create pods in team-a
    create pods/exec in plinth-system
    create pods/exec in team-a
    get pods/log in kube-system
    get secrets in team-b
    get secrets in kube-system
    list secrets
    list secrets in plinth-system
    watch secrets in team-a
    delete secrets in team-a
    create serviceaccounts/token in plinth-system
    create serviceaccounts/token in kube-system
    create rolebindings.rbac.authorization.k8s.io in plinth-system
    create clusterrolebindings.rbac.authorization.k8s.io
    escalate clusterroles.rbac.authorization.k8s.io
    bind clusterroles.rbac.authorization.k8s.io
    impersonate users
    impersonate serviceaccounts in kube-system
    delete nodes
    patch nodes
    get nodes/proxy
    create gpupools.plinth.dev
    delete gpupools.plinth.dev
    create modeldeployments.plinth.dev in team-a
    delete modeldeployments.plinth.dev in team-a
    patch modeldeployments.plinth.dev/scale in team-a
    deletecollection modeldeployments.plinth.dev
    create rayclusters.ray.io in team-b
    delete pods in team-b
    patch deployments.apps in plinth-system
    patch deployments.apps/scale:plinth-gateway in plinth-system
    delete namespaces
    patch customresourcedefinitions.apiextensions.k8s.io
    create validatingwebhookconfigurations.admissionregistration.k8s.io
    delete validatingwebhookconfigurations.admissionregistration.k8s.io:plinth
    patch validatingwebhookconfigurations.admissionregistration.k8s.io:another
    delete networkpolicies.networking.k8s.io in plinth-system
    get configmaps in kube-system
    create secrets in plinth-keys
    update secrets in plinth-keys
    delete secrets in plinth-keys
    get pods in plinth-keys
    create quotapolicies.plinth.dev in team-a
    patch quotapolicies.plinth.dev in team-a
    create persistentvolumes
    approve certificatesigningrequests.certificates.k8s.io
"""
MUST_NOT = {
    "plinth-operator": f"""{NOBODY}
        patch modeldeployments.plinth.dev in team-a
        list events.events.k8s.io in team-b
    """,
    "plinth-gateway": f"""{NOBODY}
        create endpointslices.discovery.k8s.io in plinth-system
        patch endpointslices.discovery.k8s.io in team-b
        get secrets in plinth-system
        list pods in plinth-system
        get gpupools.plinth.dev
        list modeldeployments.plinth.dev
        list nodes
        get leases.coordination.k8s.io in plinth-system
        patch quotapolicies.plinth.dev/status in team-b
    """,
    "plinth-release": f"""{NOBODY}
        get secrets in plinth-system
        delete secrets:plinth-engine in plinth-system
        delete pods in plinth-system
        patch gpupools.plinth.dev/status
        get rayclusters.ray.io in plinth-system
        patch endpointslices.discovery.k8s.io in team-b
    """,
    "plinth-test": f"""{NOBODY.replace("create secrets in plinth-keys", "")}
        create secrets in plinth-system
        get secrets in plinth-keys
        list secrets in plinth-keys
        delete secrets:team-a.ci in plinth-keys
        get gpupools.plinth.dev
    """,
}
# What somebody may do who has one of Kubernetes' own roles in team-a, and what not.
PEOPLE_MAY = {
    "view": """
        get modeldeployments.plinth.dev in team-a
        list gpupools.plinth.dev in team-a
        list quotapolicies.plinth.dev in team-a
    """,
    "edit": """
        create modeldeployments.plinth.dev in team-a
        patch modeldeployments.plinth.dev/scale in team-a
    """,
    "admin": "delete modeldeployments.plinth.dev in team-a",
}
PEOPLE_MUST_NOT = {
    "view": """
        create modeldeployments.plinth.dev in team-a
        patch modeldeployments.plinth.dev/scale in team-a
        get modeldeployments.plinth.dev in team-b
    """,
    "edit": """
        patch modeldeployments.plinth.dev/status in team-a
        patch quotapolicies.plinth.dev in team-a
        get secrets in plinth-keys
        create modeldeployments.plinth.dev in team-b
        create gpupools.plinth.dev
    """,
    "admin": """
        patch gpupools.plinth.dev in team-a
        delete gpupools.plinth.dev
        create quotapolicies.plinth.dev in team-a
        create secrets in plinth-keys
    """,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    with make_control_plane(tmp_path_factory) as made:
        prepare(made)
        Installation(made).install({"namespaces": ["team-a"]})
        # A hook's account exists only while it runs.
        hooks = Installation(made).helm("get", "hooks", "plinth")
        made.apply(
            *(each for each in yaml.safe_load_all(hooks) if each and each["kind"] not in {"Pod", "Job"})
        )
        # Kubernetes' own roles take ours in by the hand of the controller manager.
        process = made.start_controller_manager()
        process.wait(lambda: takes_in(made, "admin"), seconds=30, what="the role admin knows models")
        for role in PEOPLE_MAY:
            made.kubectl(
                "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}", "-n", "team-a"
            )
        yield made


def takes_in(cluster: Kubernetes, role: str) -> bool:
    """Whether one of Kubernetes' own roles has taken ours in."""
    rules = cluster.get("clusterrole", role)["rules"] or []
    return any("plinth.dev" in rule["apiGroups"] and "create" in rule["verbs"] for rule in rules)


def lines_of(text: str) -> list[str]:
    """The actions of a table, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def review(action: str, user: str) -> dict[str, Any]:
    """The question whether a user may do something."""
    found = ACTION.fullmatch(action)
    assert found, action
    attributes = {key: value.removeprefix(".") for key, value in found.groupdict().items() if value}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }


def allowed(cluster: Kubernetes, user: str, actions: list[str]) -> list[str]:
    """Those of the actions that the user may take."""
    questions = {"apiVersion": "v1", "kind": "List", "items": [review(action, user) for action in actions]}
    answers = cluster.kubectl(
        "create", "-f", "-", "-o", "jsonpath={.status.allowed} ", stdin=yaml.safe_dump(questions)
    )
    return [action for action, answer in zip(actions, answers.split(), strict=True) if answer == "true"]


@pytest.mark.parametrize("account", MAY)
def test_each_account_may_do_what_it_must(cluster: Kubernetes, account: str) -> None:
    asked = lines_of(MAY[account])
    assert allowed(cluster, f"system:serviceaccount:{NAMESPACE}:{account}", asked) == asked


@pytest.mark.parametrize("account", MUST_NOT)
def test_no_account_may_do_more(cluster: Kubernetes, account: str) -> None:
    asked = lines_of(MUST_NOT[account])
    assert allowed(cluster, f"system:serviceaccount:{NAMESPACE}:{account}", asked) == []


@pytest.mark.parametrize("role", PEOPLE_MAY)
def test_the_roles_that_people_have_already_go_for_models_too(cluster: Kubernetes, role: str) -> None:
    asked = lines_of(PEOPLE_MAY[role])
    assert allowed(cluster, role, asked) == asked
    assert allowed(cluster, role, lines_of(PEOPLE_MUST_NOT[role])) == []
