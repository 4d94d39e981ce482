"""What a writer of YAML reads when it is wrong: the field, the rule, what stands there, what would work."""

from __future__ import annotations

from typing import Any

import pytest

from plinth.api.v1alpha1 import InvalidResourceError, parse_resource
from plinth.api.v1alpha1.errors import FieldError, nearest, path_of
from plinth.tests.api.building import model_document, pool_document

SECRET = "hf_abcdefghijklmnop"


def faults(document: dict[str, Any]) -> list[FieldError]:
    with pytest.raises(InvalidResourceError) as caught:
        parse_resource(document)
    return list(caught.value.errors)


def words(document: dict[str, Any]) -> str:
    (fault,) = faults(document)
    return str(fault)


SENTENCES = [
    (
        model_document(scaling={"maxReplicas": 0, "minReplicas": 0}),
        "spec.scaling.maxReplicas: must be at least 1, got 0; anything from 1 to 1000 works",
    ),
    (
        model_document(objectives={"percentile": 100}),
        "spec.objectives.percentile: must be at most 99, got 100; anything from 50 to 99 works",
    ),
    (
        model_document(objectives={"ttftMilliseconds": 0}),
        "spec.objectives.ttftMilliseconds: must be at least 1, got 0; anything from 1 to 600000 works",
    ),
    (
        model_document(objectives={"contextTokens": 512, "inputTokens": 512, "outputTokens": 256}),
        (
            "spec.objectives.contextTokens: must be at least inputTokens + outputTokens, got 512; "
            "set contextTokens to 768 or more, or ask for fewer inputTokens or outputTokens"
        ),
    ),
    (
        model_document(scaling={"minReplicas": 4}),
        (
            "spec.scaling.minReplicas: must be at most maxReplicas, got 4; "
            "set maxReplicas to 4 or more, or minReplicas to 1 or less"
        ),
    ),
    (model_document(scalling={}), "unknown field spec.scalling; did you mean spec.scaling?"),
    (
        model_document(scaling={"min_replicas": 1}),
        "unknown field spec.scaling.min_replicas; did you mean spec.scaling.minReplicas?",
    ),
    (
        model_document(model={"source": "hf://a/b", "zzz": 1}),
        "unknown field spec.model.zzz; the fields of spec.model are source, revision, credentials, task",
    ),
    (
        {**model_document(), "metadata": {"name": "a", "lables": {}}},
        "unknown field metadata.lables; did you mean metadata.labels?",
    ),
    (
        model_document() | {"specs": {}},
        "unknown field specs; did you mean spec?",
    ),
    (
        model_document(engine={"type": "llama.cpp"}),
        'spec.engine.type: must be one of Auto, LlamaCpp, VLLM, got "llama.cpp"; did you mean LlamaCpp?',
    ),
    (
        model_document(model={"source": "hf://a/b", "task": "Sing"}),
        'spec.model.task: must be one of Generate, Embed, Rerank, got "Sing"; write Generate',
    ),
    (
        model_document(scaling={"maxReplicas": "3"}),
        'spec.scaling.maxReplicas: must be a whole number, got "3"; write 3 without quotes',
    ),
    (
        model_document(scaling={"maxReplicas": 3.0}),
        "spec.scaling.maxReplicas: must be a whole number, got 3.0; write 3",
    ),
    (
        model_document(scaling={"maxReplicas": "many"}),
        'spec.scaling.maxReplicas: must be a whole number, got "many"; write a number such as 1',
    ),
    (model_document(servedName=5), 'spec.servedName: must be a string, got 5; write "5", with the quotes'),
    (
        model_document(engine={"args": {"enforce-eager": True}}),
        'spec.engine.args.enforce-eager: must be a string, got true; write "true", with the quotes',
    ),
    (
        model_document(engine={"args": {"--enforce_eager": "1"}}),
        (
            "spec.engine.args: must have names of lowercase letters, digits and dashes, without dashes in front; "
            "'--enforce_eager' is not such a name; 'enforce-eager' is"
        ),
    ),
    (
        model_document(engine={"args": "x"}),
        'spec.engine.args: must be a mapping, got "x"; write entries below it, each as name: value',
    ),
    (
        model_document(scaling=3),
        (
            "spec.scaling: must be a mapping, got 3; write its fields below it: "
            "minReplicas, maxReplicas, targetUtilizationPercent, quietSeconds"
        ),
    ),
    (
        pool_document(nodeTypes=[{"name": "a", "max": 1, "cpus": 8, "memory": "64 GB"}]),
        (
            'spec.nodeTypes[0].memory: must be a whole number with a unit, Mi, Gi or Ti, got "64 GB"; '
            '"64Gi" would work'
        ),
    ),
    (
        pool_document(namespace="a", volumes=[{"claim": "a", "readOnly": "yes"}]),
        'spec.volumes[0].readOnly: must be true or false, got "yes"; write one of the two, without quotes',
    ),
    (
        model_document(model={}),
        (
            "spec.model.source: is required; add source: `hf://org/name` (`@revision` and `/file.gguf` may follow), "
            "`file:///path`, `package://module/file`, or `pvc://claim/path` on a pool that mounts the claim."
        ),
    ),
    (
        model_document(model={"source": "s3://bucket/qwen"}),
        (
            'spec.model.source: must start with hf://, file://, package:// or pvc://, got "s3://bucket/qwen"; '
            "s3:// is not a source that Plinth reads; download it and write file:///PATH/qwen"
        ),
    ),
    (
        model_document(model={"source": "Qwen/Qwen3-8B"}),
        (
            'spec.model.source: must start with hf://, file://, package:// or pvc://, got "Qwen/Qwen3-8B"; '
            "write hf://Qwen/Qwen3-8B"
        ),
    ),
    (
        model_document(model={"source": "/models/qwen"}),
        (
            'spec.model.source: must start with hf://, file://, package:// or pvc://, got "/models/qwen"; '
            "write file:///models/qwen"
        ),
    ),
    (
        {**model_document(), "metadata": {"name": "Qwen 2.5"}},
        (
            "metadata.name: must be lowercase letters, digits and dashes, with a letter or digit at both ends, "
            'got "Qwen 2.5"; "qwen-2-5" would work'
        ),
    ),
    (
        {**model_document(), "metadata": {}},
        "metadata.name: is required; add name: Name of the resource, unique among its kind in its namespace.",
    ),
    (
        {**model_document(), "metadata": {"name": "a", "labels": [1]}},
        "metadata.labels: must be a mapping, got a list; write entries below it, each as name: value",
    ),
    (
        model_document(servedName="x" * 129),
        f'spec.servedName: must have at most 128 characters, got "{"x" * 78}…; shorten it to 128 characters',
    ),
    (
        pool_document(nodeSelector={f"a{i}": "" for i in range(17)}),
        "spec.nodeSelector: must have at most 16 entries, got a mapping; shorten it to 16 entries",
    ),
    (
        pool_document(costPerAcceleratorHour=2.5),
        'spec.costPerAcceleratorHour: must be a string, got 2.5; write "2.5", with the quotes',
    ),
    (
        pool_document(costPerAcceleratorHour="3,90"),
        (
            "spec.costPerAcceleratorHour: must be a decimal number in quotes, with at most 6 decimals, "
            'got "3,90"; "2.50" would work'
        ),
    ),
    (
        model_document() | {"apiVersion": "plinth.dev/v1"},
        'apiVersion: must be plinth.dev/v1alpha1, got "plinth.dev/v1"; did you mean plinth.dev/v1alpha1?',
    ),
    (
        model_document() | {"kind": "ModelDeploymnt"},
        'kind: must be one of GPUPool, ModelDeployment, QuotaPolicy, got "ModelDeploymnt"; did you mean ModelDeployment?',
    ),
    ({"kind": "GPUPool"}, "apiVersion: is required; write apiVersion: plinth.dev/v1alpha1"),
    (
        {"apiVersion": "plinth.dev/v1alpha1", "kind": ["GPUPool"]},
        "kind: must be one of GPUPool, ModelDeployment, QuotaPolicy, got a list; write GPUPool",
    ),
]


@pytest.mark.parametrize(("document", "sentence"), SENTENCES, ids=[text[:50] for _, text in SENTENCES])
def test_the_sentence_names_field_rule_and_remedy(document: dict[str, Any], sentence: str) -> None:
    assert words(document) == sentence


def test_all_faults_are_told_at_once() -> None:
    document = model_document(
        scaling={"minReplicas": 3, "maxReplicas": 2},
        engine={"type": "x", "args": {"a": "1"}},
        model={"source": "ftp://x", "revision": "main"},
    )
    assert {fault.path for fault in faults(document)} == {
        "spec.scaling.minReplicas",
        "spec.engine.type",
        "spec.model.source",
        "spec.model.revision",
    }


def test_two_rules_broken_in_one_section_are_both_told() -> None:
    document = model_document(engine={"args": {"-a": "1", "host": "x"}})
    assert [fault.path for fault in faults(document)] == ["spec.engine.args", "spec.engine.args"]


@pytest.mark.parametrize(
    "document",
    [
        model_document(model={"source": "hf://a/b", "credentials": SECRET}),
        model_document(model={"source": "hf://a/b", "credentials": {"name": SECRET, "key": "token"}}),
        model_document(model={"source": "hf://a/b", "credentials": {"name": "a", "key": f"{SECRET}/"}}),
        model_document(model={"source": "file:///a", "credentials": {"name": "a", "key": SECRET}}),
        model_document(model={"source": "hf://a/b", "token": SECRET}),
        model_document(engine={"args": {"api-key": SECRET}}),
        model_document(engine={"args": {"hf-token": [SECRET]}}),
    ],
)
def test_what_may_be_a_secret_is_never_repeated(document: dict[str, Any]) -> None:
    assert SECRET not in "".join(f"{fault} {fault!r}" for fault in faults(document))


def test_a_slip_is_told_from_another_word() -> None:
    fields = ["minReplicas", "maxReplicas", "quietSeconds"]
    assert nearest("minReplica", fields) == "minReplicas"
    assert nearest("MAX_REPLICAS", fields) == "maxReplicas"
    assert nearest("banana", fields) is None


def test_a_path_reads_as_in_the_yaml() -> None:
    assert path_of(("items", 2, "metadata", "name")) == "items[2].metadata.name"
    assert path_of(()) == ""
