"""What a pool's owner forbids, the planner refuses with the reason NotAllowed."""

from __future__ import annotations

from typing import Any

import pytest

from plinth.domain.fleet import Engine, Verdict
from plinth.domain.permissions import refuse_on
from plinth.domain.planner import compute_plan
from plinth.domain.pools import Pool, resolve_pools
from plinth.tests.domain.builders import make_model, make_node, make_pool, make_resource, make_snapshot


def pool(**spec: Any) -> Pool:
    (resolved,) = resolve_pools([make_pool("shared", **spec)], [make_node()])
    return resolved


def accepted(**model: Any) -> Verdict:
    plan = compute_plan(make_snapshot(models=(make_model(**model),), pools=(make_pool("shared"),)), now=0.0)
    return next(verdict for verdict in plan.models[0].verdicts if verdict.type == "Accepted")


def test_the_planner_refuses_a_volume_on_a_pool_that_serves_all() -> None:
    verdict = accepted(source="pvc://models/x.gguf")
    assert (verdict.status, verdict.reason) == (False, "NotAllowed")
    assert verdict.message.startswith("spec.model.source: pvc:// needs a pool with a namespace of its own")


def test_the_planner_refuses_arguments_that_reach_beyond_the_model() -> None:
    verdict = accepted(engine={"type": "LlamaCpp", "args": {"path-prompt-cache": "/etc/passwd"}})
    assert (verdict.status, verdict.reason) == (False, "NotAllowed")
    assert verdict.message.startswith("spec.engine.args.path-prompt-cache: it opens files")


@pytest.mark.parametrize("source", ["hf://org/name", "file:///models/x", "package://m/x.gguf"])
def test_other_sources_are_no_matter_of_permission(source: str) -> None:
    assert refuse_on(pool(), make_resource(source=source).spec, Engine) is None


def test_a_pool_that_mounts_nothing_says_so() -> None:
    spec = make_resource(source="pvc://models").spec
    assert refuse_on(pool(namespace="a"), spec, Engine) == (
        "spec.model.source: GPUPool shared does not mount the claim models, its spec.volumes is empty; "
        "add the claim there"
    )


def test_what_is_mounted_may_be_read_and_what_is_trusted_may_run() -> None:
    trusting = pool(namespace="a", trustRemoteCode="Allowed", volumes=[{"claim": "models"}])
    spec = make_resource(
        source="pvc://models/x", engine={"type": "VLLM", "args": {"trust-remote-code": "true"}}
    ).spec
    assert refuse_on(trusting, spec, Engine) is None
