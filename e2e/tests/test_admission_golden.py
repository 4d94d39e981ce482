"""Every invalid manifest of golden/admission, as `kubectl apply` refuses it: the exact words that its writer reads.

`PLINTH_GOLDEN=write pytest e2e/tests/test_admission_golden.py` writes the words anew; read the difference before you
commit it. Manifests of several documents are edits: all but the last are applied first, and taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from admission import NAMESPACE, Admission, install_webhooks, wait_trusted
from kube.access import KubectlError, Kubernetes
from kube.fixtures import make_control_plane

from plinth.domain.fleet import FleetSnapshot, Node
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import make_model, make_node, make_pool, make_qwen_artifact, make_snapshot

pytestmark = pytest.mark.kube

FOLDER = Path(__file__).parent / "golden/admission"
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml"))
MESSAGES = FOLDER / "messages.txt"
IS_WRITING = os.environ.get("PLINTH_GOLDEN") == "write"
TAKEN = "(taken; what is wrong with it stands in its status)"
FIELD = re.compile(r"(spec|metadata)\.\w|spec: |unknown field")


def gpu_node(name: str, pool: str, *, kind: str, accelerators: int, memory_gib: int) -> Node:
    node = make_node(
        name, accelerators=accelerators, accelerator=kind, accelerator_memory_bytes=memory_gib * GIB
    )
    return replace(node, pool=pool)


def make_fleet() -> FleetSnapshot:
    """What the manifests run into: four pools, somebody's model `chat`, and a Qwen that has been read."""
    return make_snapshot(
        pools=(
            make_pool("h200"),
            make_pool("l4"),
            make_pool("cpu", accelerator="CPU"),
            make_pool("team-a", namespace="team-a", volumes=[{"claim": "weights"}]),
        ),
        nodes=(
            gpu_node("h200-1", "h200", kind="H200", accelerators=8, memory_gib=140),
            gpu_node("l4-1", "l4", kind="L4", accelerators=1, memory_gib=22),
            gpu_node("a-1", "team-a", kind="H200", accelerators=8, memory_gib=140),
            replace(make_node("cpu-1"), pool="cpu"),
        ),
        models=(
            make_model("chat", "team-b", source="hf://org/chat", reading=True),
            make_model(
                "qwen", "team-b", source="hf://Qwen/Qwen2.5-32B-Instruct", artifact=make_qwen_artifact()
            ),
        ),
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """An API server of this module's own: the webhooks of others must not answer."""
    with make_control_plane(tmp_path_factory) as made, pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(made.kubeconfig))
        for name in (NAMESPACE, "team-a"):
            made.kubectl("create", "namespace", name)
        yield made


@pytest.fixture(scope="module")
def answers(cluster: Kubernetes) -> dict[str, list[str]]:
    """What kubectl says of each manifest, with the webhook and without it."""
    admission = Admission(cluster, make_fleet())
    admission.start()
    install_webhooks(cluster, admission.port)
    wait_trusted(cluster)
    told = {name: [say(cluster, name)] for name in MANIFESTS}
    admission.stop()
    for name in MANIFESTS:
        told[name].append(say(cluster, name))
    return told


def say(cluster: Kubernetes, name: str) -> str:
    """What kubectl says of a manifest's last document."""
    *before, last = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    for document in before:
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))
    try:
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(last))
    except KubectlError as error:
        return str(error)
    finally:
        for document in before:
            cluster.kubectl("delete", "-f", "-", stdin=yaml.safe_dump(document))
    return TAKEN


def test_every_message_is_the_one_that_was_agreed_on(answers: dict[str, list[str]]) -> None:
    text = "\n".join(entry(name, *answers[name]) for name in MANIFESTS)
    if IS_WRITING:
        MESSAGES.write_text(text, encoding="utf-8")
    assert text == MESSAGES.read_text(encoding="utf-8")


def entry(name: str, answered: str, away: str) -> str:
    return f"## {name}\n{answered}\n-- while the webhook is away\n{away}\n"


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_is_refused_with_a_field_and_a_remedy(
    name: str, answers: dict[str, list[str]]
) -> None:
    answered, _ = answers[name]
    assert answered != TAKEN
    of_kubernetes = "ensure CRDs are installed first" in answered or "strict decoding error" in answered
    assert of_kubernetes or (FIELD.search(answered) and "; " in answered), answered


@pytest.mark.parametrize("name", MANIFESTS)
def test_only_what_depends_on_the_fleet_passes_while_the_webhook_is_away(
    name: str, answers: dict[str, list[str]]
) -> None:
    answered, away = answers[name]
    by_the_fleet = 'webhook "validate.plinth.dev" denied' in answered
    assert (away == TAKEN) == by_the_fleet, away


def test_there_are_more_than_sixty() -> None:
    assert len(MANIFESTS) > 60
