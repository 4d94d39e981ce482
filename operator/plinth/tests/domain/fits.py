"""The target of one model on nodes of one make, for tests of what a plan gives a replica."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plinth.domain.figures import Correction
from plinth.domain.fleet import Artifact, Node
from plinth.domain.naming import ServedNames
from plinth.domain.pool_choice import choose_target
from plinth.domain.pools import resolve_pools
from plinth.domain.targets import Refusal, Target
from plinth.tests.domain.builders import make_model, make_node, make_pool


def choose_on(
    artifact: Artifact,
    *nodes: Node,
    pool: dict[str, Any] | None = None,
    speed_thousandths: int = 1000,
    **spec: Any,
) -> Target | Refusal:
    """What is chosen on a pool of these nodes; `spec` as in `make_model`."""
    model = make_model(artifact=artifact, **spec)
    return choose_target(
        replace(model, correction=Correction(thousandths=speed_thousandths, stretches=6)),
        names=ServedNames(names=("chat",)),
        pools=resolve_pools((make_pool("p", **pool or {}),), nodes),
        slots=(),
    )


def target_of(artifact: Artifact, *, gpus: int = 0, **spec: Any) -> Target:
    """The target on one node with so many H200."""
    found = choose_on(artifact, make_node(accelerators=gpus), **spec)
    assert isinstance(found, Target), found
    return found


def refusal_of(artifact: Artifact, *nodes: Node, **spec: Any) -> str:
    """Why there is none."""
    found = choose_on(artifact, *nodes, **spec)
    assert isinstance(found, Refusal), found
    return found.message
