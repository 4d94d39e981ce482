"""The table of smallest shapes of `docs/reference/shapes.md`, made by the production functions.

PYTHONPATH=operator .venv/bin/python -m plinth.tests.domain.sizing.shape_table >docs/reference/shapes.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from plinth.domain.accelerators.catalogue import find_accelerator
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.quantities import GIB
from plinth.domain.sizing.choice import ShapeChoice, choose
from plinth.domain.sizing.request import Load, Place, SizingRequest
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read_public
from plinth.tests.domain.sizing.published_runs import RUNS

KINDS = ("T4", "L4", "RTX-4090", "A100-80GB", "H100", "H200", "MI300X")
REQUESTS, CONTEXT_TOKENS = 8, 8192
PER_NODE, NODES = 8, 4
NONE = "-"
INTRODUCTION = f"""# The smallest shape of public models

How few accelerators hold a model's weights and {REQUESTS} requests of {CONTEXT_TOKENS} tokens each (of all that the model
has, where that is less; an encoder keeps nothing of them), on nodes of {PER_NODE}, of which an engine takes 90% of each
accelerator's memory. Weights and KV cache are as published: 16 bits unless the model comes quantised. `TP` splits every
layer, `PP` puts layers one after the other, `EP` spreads whole experts; `{NONE}`: not on {NODES} nodes, or not on this kind
at all (vLLM computes neither Gemma nor MXFP4 weights on a T4). More than {PER_NODE} accelerators lie on several nodes, as
many on each.

This is what memory alone asks for. With `spec.objectives` that ask for speed the plan takes more, see
[planning](../concepts/planning.md). The table is made by the planner itself, and a test holds it to that:
`python -m plinth.tests.domain.sizing.shape_table`.
"""
CHECKED = """## Held against what others say

What the makers of models and of engines recommend, mostly for loads of their own, leaves room between two numbers of
accelerators; the table's must lie there.
"""
RUN = """## Shapes that others have run

What vLLM was started with, and whether it started: for that, one request of the length that it was told (or of all that
the model has) must fit. The planner has to take the shapes that run and refuse the others. Weights that are stored
otherwise than the model's own are named; addresses and engine arguments stand in
`operator/plinth/tests/domain/sizing/published_runs.yaml`.
"""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What somebody says that a model needs."""

    model: str
    kind: str
    said: str
    least: int
    most: int
    source: str


PUBLISHED = tuple(
    Published(**entry)
    for entry in yaml.safe_load(Path(__file__).with_name("published_shapes.yaml").read_text())
)


def smallest_shape(name: str, kind: str) -> Shape | None:
    """The fewest accelerators of a kind that hold a public model under the table's load; None: no number does."""
    found = choose(make_request(read_public(name), kind))
    return found.shape if isinstance(found, ShapeChoice) else None


def make_request(model: ModelArchitecture, kind: str) -> SizingRequest:
    accelerator = find_accelerator(kind)
    assert accelerator is not None, kind
    context = min(CONTEXT_TOKENS, model.max_context_tokens)
    return SizingRequest(
        model=model,
        place=Place(accelerator=accelerator, accelerators_per_node=PER_NODE, nodes=NODES),
        load=Load(
            concurrency=REQUESTS,
            input_tokens=context // 2,
            output_tokens=context // 8,
            context_tokens=context,
        ),
    )


def make_document() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *_shapes(), "", CHECKED, *_checks(), "", RUN, *_runs(), ""])


def _shapes() -> Iterator[str]:
    yield from _head(["model", "parameters", "weights", *KINDS])
    for name in PUBLIC_MODELS:
        model = read_public(name)
        billions = f"{model.parameters / 1e9:.2f}".rstrip("0").rstrip(".") + " B"
        shapes = (smallest_shape(name, kind) for kind in KINDS)
        yield _row(
            [name, billions, f"{model.weights_bytes / GIB:.1f} GiB", *(str(each or NONE) for each in shapes)]
        )


def _checks() -> Iterator[str]:
    yield from _head(["model", "kind", "is said to need", "in the table", "source"])
    for each in PUBLISHED:
        shape = smallest_shape(each.model, each.kind)
        here = f"{shape.accelerators}: {shape}" if shape else NONE
        yield _row([each.model, each.kind, each.said, here, each.source])


def _runs() -> Iterator[str]:
    yield from _head(["model", "kind", "shape", "longest request", "vLLM", "the planner", "source"])
    for each in RUNS:
        setting, found = each.setting, each.judge()
        model = f"{setting.model} ({setting.weights.replace('_', ' ')})" if setting.weights else setting.model
        says = "takes it" if isinstance(found, ShapeChoice) else "refuses"
        said = "runs" if each.runs else "does not run"
        note = f" ({setting.parts})" if setting.parts else ""
        source = f"[{setting.source.split('/')[2].removeprefix('www.')}]({setting.source})"
        yield _row([model, setting.kind, str(setting.shape), f"{each.context:,}", said, says + note, source])


def _head(columns: Iterable[str]) -> Iterator[str]:
    names = list(columns)
    yield _row(names)
    yield "|" + "---|" * len(names)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(make_document())
