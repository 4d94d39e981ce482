"""Shapes that others have run with vLLM, and what the planner says of each.

Where the smallest shapes of `published_shapes.yaml` leave room, these do not: one shape, on one kind of accelerator,
with one longest request, started or did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.quantities import GIB
from plinth.domain.sizing.choice import ShapeChoice, SizingRefusal, choose
from plinth.domain.sizing.memory import plan_memory
from plinth.domain.sizing.request import Asked, EngineOptions, Load, Place, SizingRequest
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import read_public
from plinth.tests.domain.sizing.sizing_builders import known

_DATA: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("published_runs.yaml").read_text())
_PER_NODE, _NODES = 8, 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model in one shape on one kind of accelerator."""

    model: str
    kind: str
    shape: Shape
    weights: str
    """How they are stored, as published_runs.yaml names it; empty: as in public_models.yaml."""
    source: str
    parts: str
    """Why the planner says otherwise, where it is known to; empty: it says the same."""

    def __str__(self) -> str:
        """`Qwen/Qwen3-32B in awq as TP1 on RTX-4090`."""
        stored = f" in {self.weights}" if self.weights else ""
        return f"{self.model}{stored} as {self.shape} on {self.kind}"

    def read_model(self) -> ModelArchitecture:
        """The model with its weights stored like this."""
        changes = {"quantization_config": _DATA["weights"][self.weights]} if self.weights else {}
        return read_public(self.model, **changes)

    def request(self, load: Load, options: EngineOptions, percent: int) -> SizingRequest:
        """The question that allows this shape and no other."""
        place = Place(
            accelerator=known(self.kind),
            accelerators_per_node=_PER_NODE,
            nodes=_NODES,
            utilization_percent=percent,
        )
        shape = self.shape
        asked = Asked(tensor=shape.tensor, pipeline=shape.pipeline, expert=shape.expert, data=shape.data)
        return SizingRequest(model=self.read_model(), place=place, load=load, asked=asked, options=options)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A setting that was started, or could not be, with a longest request and engine arguments."""

    setting: Setting
    context: int
    runs: bool
    requests: int
    percent: int
    options: EngineOptions

    def judge(self) -> ShapeChoice | SizingRefusal:
        """What the planner says of it."""
        tokens = max(1, self.context // 8)
        load = Load(
            concurrency=max(self.requests, self.setting.shape.data),
            input_tokens=tokens,
            output_tokens=tokens,
            context_tokens=self.context,
        )
        return choose(self.setting.request(load, self.options, self.percent))


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the weights of a setting took of one accelerator."""

    setting: Setting
    weights_bytes: int

    def plan(self) -> int:
        """What the planner says that they take."""
        load = Load(concurrency=1, input_tokens=1, output_tokens=1, context_tokens=1)
        request = self.setting.request(load, EngineOptions(), percent=90)
        return plan_memory(request, self.setting.shape).weights_bytes


def _settings(kind: str) -> Iterator[tuple[Setting, Mapping[str, Any]]]:
    for entry in _DATA[kind]:
        yield (
            Setting(
                model=entry["model"],
                kind=entry["kind"],
                shape=Shape(**entry["shape"]),
                weights=entry.get("weights", ""),
                source=_DATA["sources"][entry["source"]],
                parts=entry.get("parts", ""),
            ),
            entry,
        )


def _run(setting: Setting, entry: Mapping[str, Any]) -> Run:
    return Run(
        setting=setting,
        context=entry["context"],
        runs=entry["runs"],
        requests=entry.get("requests", 1),
        percent=entry.get("percent", 90),
        options=EngineOptions(
            batched_tokens=entry.get("batched"),
            sequences=entry.get("sequences"),
            kv_element_bytes=entry.get("kv_bytes", 2),
        ),
    )


RUNS = tuple(_run(setting, entry) for setting, entry in _settings("runs"))
LOADS = tuple(
    Loaded(setting=setting, weights_bytes=entry["hundredths"] * GIB // 100)
    for setting, entry in _settings("loads")
)
SOURCES: Mapping[str, str] = _DATA["sources"]
