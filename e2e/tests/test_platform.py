"""The product as platform teams use it: helm install, kubectl apply, a streamed answer, kubectl delete leaves nothing."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_platform import Platform, installed, make_model, small_pool
from kube.binaries import find_program
from kube.cluster import Cluster
from kube.host_python import SCRATCH_VOLUME, host_container, host_volumes
from kube.installation import NAMESPACE
from kube.processes import Process, wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]
TEAM = "team-a"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, kuberay: Process) -> Iterator[Platform]:
    assert kuberay.runs()
    cluster.kubectl("create", "namespace", TEAM)
    cluster.add_node("node2")  # room for a RayCluster beside another
    with installed(cluster) as made:
        cluster.apply(small_pool())
        yield made


@pytest.fixture(scope="module")
def smol(platform: Platform) -> str:
    """A model that serves, for the tests that do not change it."""
    platform.cluster.apply(make_model("smol", TEAM))
    platform.wait_ready("smol", TEAM)
    return "smol"


def test_a_model_that_is_applied_answers_and_kubectl_tells_what_one_asks(
    platform: Platform, smol: str
) -> None:
    assert platform.ask(smol)
    assert [model.id for model in platform.client.models.list()] == [smol]
    row = platform.cluster.kubectl("get", "mdl", smol, "-n", TEAM)
    assert "1/1" in row
    assert "Serving" in row
    pools = platform.cluster.kubectl("get", "gpool")
    assert "CapacityReady" in pools
    assert "1/1" in pools
    described = platform.cluster.kubectl("describe", "mdl", smol, "-n", TEAM)
    assert "LlamaCpp: the engine for GGUF" in described
    assert "Created" in described or "created" in described, "events tell the story"
    status = platform.cluster.get("gpool", "cpu")["status"]
    assert status["rayClusters"]
    assert status["conditions"]


def test_applying_the_same_again_changes_nothing(platform: Platform, smol: str) -> None:
    def version() -> str:
        return str(platform.model(smol, TEAM)["metadata"]["resourceVersion"])

    before = version()
    platform.cluster.apply(make_model(smol, TEAM), small_pool())
    time.sleep(5)
    assert version() == before


@pytest.fixture(scope="module")
def planner(platform: Platform) -> Path:
    """The kubeconfig of somebody who may ask for plans, and see pools and models."""
    cluster = platform.cluster
    account = f"--serviceaccount={NAMESPACE}:planner"
    cluster.kubectl("create", "serviceaccount", "planner", "-n", NAMESPACE)
    cluster.kubectl("create", "rolebinding", "planner", "--role=plinth-planner", account, "-n", NAMESPACE)
    return cluster.account_kubeconfig(NAMESPACE, "planner")


def ask_for_plan(kubeconfig: Path, folder: Path, **spec: Any) -> subprocess.CompletedProcess[str]:
    """`kubectl plinth plan` for a model beside those that run."""
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(make_model("supposed", TEAM, **spec)))
    programs = f"{find_program('kubectl').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["kubectl", "plinth", "plan", file, "-o", "json"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": programs},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.usefixtures("smol")
def test_who_may_forward_a_port_to_the_operator_learns_what_would_become_of_a_model(
    platform: Platform, planner: Path, tmp_path: Path
) -> None:
    done = ask_for_plan(planner, tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [(each["name"], each["pool"], each["engine"]) for each in document["models"]] == [
        ("supposed", "cpu", "LlamaCpp")
    ]
    assert [(each["name"], each["action"] in {"Create", "Await"}) for each in document["changes"]] == [
        ("supposed", True)
    ]
    many = ask_for_plan(planner, tmp_path, scaling={"minReplicas": 64, "maxReplicas": 64})
    assert many.returncode == 3
    assert f"{TEAM}/supposed stays pending: a replica needs" in many.stderr
    assert f"held by {TEAM}/" in many.stderr
    assert [each["metadata"]["name"] for each in platform.cluster.list("mdl", "-n", TEAM)] == ["smol"]


def test_who_may_not_is_refused_in_kubernetes_words(platform: Platform, tmp_path: Path) -> None:
    platform.cluster.kubectl("create", "serviceaccount", "nobody", "-n", TEAM)
    done = ask_for_plan(platform.cluster.account_kubeconfig(TEAM, "nobody"), tmp_path)
    assert done.returncode == 1
    assert 'cannot list resource "pods"' in done.stderr


@pytest.mark.usefixtures("smol")
def test_a_tenant_s_pod_gets_nothing_from_ray_replicas_or_gateways_without_their_secrets(
    platform: Platform,
) -> None:
    (head,) = platform.pods("ray.io/node-type=head")
    (worker,) = platform.pods("ray.io/node-type=worker")
    gateway = platform.pods("app.kubernetes.io/component=gateway")[0]
    (slice_,) = [
        each for each in platform.cluster.list("endpointslices", "-n", TEAM) if each.get("endpoints")
    ]
    replica = f"{slice_['endpoints'][0]['addresses'][0]}:{slice_['ports'][0]['port']}"
    (note,) = [json.loads(each) for each in slice_["metadata"]["annotations"].values() if "slot" in each]
    slot = note["slot"]
    urls = {
        f"http://{head['status']['podIP']}:8265/api/serve/applications/": {401, 403},
        f"http://{head['status']['podIP']}:8265/api/v0/nodes": {401, 403},
        f"http://{head['status']['podIP']}:8270/artifact?source=file:///etc/passwd": {401, 403},
        f"http://{replica}/{slot}/v1/models": {401, 403},
        f"http://{replica}/{slot}/plinth/state": {401, 403},
        f"http://{gateway['status']['podIP']}:8083/reports": {401, 403},
    }
    code = (
        "import json, sys, urllib.request, urllib.error\n"
        "def ask(url):\n"
        "    try:\n"
        "        return urllib.request.urlopen(url, timeout=5).status\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return error.code\n"
        "print(json.dumps({url: ask(url) for url in sys.argv[1:]}))"
    )
    answers = json.loads(run_in_tenant_pod(platform, code, *urls))
    assert {url: status in urls[url] for url, status in answers.items()} == dict.fromkeys(urls, True), answers
    environment = json.dumps([head["spec"], worker["spec"]])
    for secret in ("plinth-engine", "plinth-gateway"):
        data = platform.cluster.get("secret", secret, NAMESPACE)["data"]
        assert all(base64.b64decode(value).decode() not in environment for value in data.values())


def run_in_tenant_pod(platform: Platform, code: str, *arguments: str) -> str:
    """What a program prints that a pod in the team's namespace runs."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "curious", "namespace": TEAM},
        "spec": {
            "containers": [host_container("main", ["sleep", "300"])],
            "volumes": [*host_volumes(), SCRATCH_VOLUME],
            "terminationGracePeriodSeconds": 0,
        },
    }
    kubectl = platform.cluster.kubectl
    platform.cluster.apply(pod)
    try:
        kubectl("wait", "pod", "curious", "-n", TEAM, "--for=condition=Ready", "--timeout=60s")
        return kubectl("exec", "-n", TEAM, "curious", "--", "python", "-c", code, *arguments)
    finally:
        kubectl("delete", "pod", "curious", "-n", TEAM, "--wait=false")


def test_kubectl_scale_pins_the_least_and_a_model_asleep_is_ready_and_wakes(platform: Platform) -> None:
    kubectl = platform.cluster.kubectl
    platform.cluster.apply(
        make_model("sleepy", TEAM, scaling={"minReplicas": 0, "maxReplicas": 2, "quietSeconds": 5})
    )
    wait_until(
        lambda: "sleepy" in [model.id for model in platform.client.models.list()],
        seconds=20,
        what="the gateway knows the model",
    )
    assert platform.ask("sleepy"), "the first request is held while a replica starts"
    wait_until(lambda: replicas(platform, "sleepy") == 0, seconds=90, what="it sleeps", pause=1.0)
    kubectl("wait", "--for=condition=Ready", "mdl/sleepy", "-n", TEAM, "--timeout=30s")
    assert "ScaledToZero" in kubectl("get", "mdl", "sleepy", "-n", TEAM)

    kubectl("scale", "mdl/sleepy", "-n", TEAM, "--replicas=1")
    wait_until(lambda: replicas(platform, "sleepy") == 1, seconds=120, what="it is pinned", pause=1.0)
    plan = " ".join(platform.model("sleepy", TEAM)["status"]["plan"])
    assert "minReplicas" in plan
    kubectl("scale", "mdl/sleepy", "-n", TEAM, "--replicas=0")
    wait_until(lambda: replicas(platform, "sleepy") == 0, seconds=90, what="it may sleep again", pause=1.0)
    kubectl("delete", "mdl", "sleepy", "-n", TEAM, "--timeout=60s")


def replicas(platform: Platform, name: str) -> int:
    return int(platform.model(name, TEAM).get("status", {}).get("readyReplicas", 0))


def test_a_pool_with_another_pod_template_moves_its_models_without_a_failed_request(
    platform: Platform, smol: str
) -> None:
    (before,) = platform.cluster.list("rayclusters", "-A")
    changed = small_pool()
    changed["spec"]["ray"]["workerTemplate"]["metadata"] = {"annotations": {"team": "a"}}
    answers: list[str] = []
    platform.cluster.apply(changed)

    def has_moved() -> bool:
        answers.append(platform.ask(smol, tokens=4))
        clusters = platform.cluster.list("rayclusters", "-A")
        return len(clusters) == 1 and clusters[0]["metadata"]["uid"] != before["metadata"]["uid"]

    wait_until(has_moved, seconds=300, what="the old RayCluster has gone", pause=0.5)
    assert all(answers)
    assert len(answers) > 10
    assert replicas(platform, smol) == 1


def test_what_is_deleted_leaves_nothing(platform: Platform, smol: str) -> None:
    cluster = platform.cluster
    cluster.kubectl("delete", "mdl", smol, "-n", TEAM, "--timeout=60s")
    wait_until(
        lambda: not cluster.list("pods", "-A", "-l", "ray.io/node-type=worker"),
        seconds=90,
        what="the idle worker is gone",
        pause=1.0,
    )
    cluster.kubectl("delete", "gpool", "cpu", "--timeout=120s")
    platform.wait_gone(TEAM)
