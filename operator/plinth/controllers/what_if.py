"""Answers what the live fleet would make of resources, from what the cycle saw last. Writes nothing, and asks Ray nothing.

The cycle goes on meanwhile: the plans are made in a thread, for one question at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plinth.api.v1alpha1 import GPUPool, ModelDeployment, Reason
from plinth.cluster.capacity import CapacityObservation
from plinth.cluster.model_reader import Question, Readings
from plinth.controllers.cycle import Pass
from plinth.desired.what_if_document import make_what_if_document
from plinth.domain.fleet import Artifact, ArtifactRefusal, FleetSnapshot, ModelKey
from plinth.domain.what_if import Edit, WhatIf, compute_what_if, edited_pools, model_key, moved_to

READ_SECONDS = 30.0
"""For reading all models of a question."""

Suppose = Callable[[Sequence[GPUPool]], CapacityObservation | None]


class NotNow(Exception):  # noqa: N818 - a state of the world, which the next try may not find
    """There is no answer at the moment; the text says why."""


class BadQuestion(Exception):  # noqa: N818 - what the asker is told
    """There can be no answer to this; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Supposed:
    """Resources as if they were applied."""

    pools: tuple[GPUPool, ...]
    models: tuple[ModelDeployment, ...]
    pool: str | None = None
    """The GPUPool that all of the models are to ask for; None: the one that each names."""


class WhatIfs:
    """One for each process, whether that leads or not."""

    def __init__(
        self,
        *,
        latest: Callable[[], Pass | None],
        readings: Readings,
        clock: Callable[[], float],
        suppose: Suppose = lambda _pools: None,
    ) -> None:
        """`latest` is the cycle's last pass, None where another process leads.

        `suppose` tells what nodes there would be with other pools, None where they do not depend on pools.
        """
        self._latest = latest
        self._readings = readings
        self._clock = clock
        self._suppose = suppose
        self._turn = asyncio.Lock()

    async def answer(self, supposed: Supposed) -> dict[str, Any]:
        """The document of `make_what_if_document`. Raises NotNow, BadQuestion."""
        latest = self._latest()
        if latest is None:
            raise NotNow("this replica of the operator does not lead, or has not looked around yet")
        if self._turn.locked():
            raise NotNow("another plan is being made; ask again")
        async with self._turn:
            snapshot = latest.snapshot
            models = _models_of(supposed, snapshot)
            artifacts = await self._read(models, snapshot)
            edit = self._edit(supposed.pools, models, artifacts, snapshot)
            found: WhatIf = await asyncio.to_thread(compute_what_if, snapshot, edit, self._clock())
            return make_what_if_document(found)

    def _edit(
        self,
        pools: tuple[GPUPool, ...],
        models: tuple[ModelDeployment, ...],
        artifacts: Mapping[ModelKey, Artifact | ArtifactRefusal],
        snapshot: FleetSnapshot,
    ) -> Edit:
        edit = Edit(pools=pools, models=models, artifacts=artifacts)
        seen = self._suppose(edited_pools(snapshot, pools)) if pools else None
        if seen is None:
            return edit
        retiring = {ray.name: ray.retiring for ray in seen.rays}
        return replace(
            edit,
            nodes=(*(node for ray in seen.rays for node in ray.nodes), *seen.potential),
            rays=tuple(replace(ray, retiring=retiring.get(ray.name, ray.retiring)) for ray in snapshot.rays),
        )

    async def _read(
        self, models: Iterable[ModelDeployment], snapshot: FleetSnapshot
    ) -> dict[ModelKey, Artifact | ArtifactRefusal]:
        """What each model is: known already, or read now. Equal questions are asked once."""
        asked = {model_key(model): self._readings.question(model) for model in models}
        sources = {question.source for question in asked.values()}
        known = {
            _wherever(self._readings.question(model.resource)): model.artifact
            for model in snapshot.models
            if model.resource.spec.model.source in sources and isinstance(model.artifact, Artifact)
        }
        unknown = [each for each in dict.fromkeys(asked.values()) if _wherever(each) not in known]
        readers = {each: asyncio.create_task(self._read_one(each)) for each in unknown}
        if readers:
            _, late = await asyncio.wait(readers.values(), timeout=READ_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        read = {each: _late(each) if task.cancelled() else task.result() for each, task in readers.items()}
        return {key: known.get(_wherever(each)) or read[each] for key, each in asked.items()}

    async def _read_one(self, question: Question) -> Artifact | ArtifactRefusal:
        if question.namespace:
            return _unread(
                question,
                f"is shown to models of {question.namespace} only; whoever asks for a plan is not known to be one."
                " It can be planned for once one of them has it",
            )
        if question.reader is None:
            return _unread(question, "can be looked into once a pool that the model may use has its Ray")
        return await self._readings.answer(question) or _unread(question, "cannot be looked into now")


def _models_of(supposed: Supposed, snapshot: FleetSnapshot) -> tuple[ModelDeployment, ...]:
    names = {each.metadata.name for each in (*snapshot.pools, *supposed.pools)}
    if supposed.pool is not None and supposed.pool not in names:
        raise BadQuestion(
            f"there is no GPUPool {supposed.pool}; there is {', '.join(sorted(names)) or 'none'}"
        )
    return tuple(moved_to(each, supposed.pool) for each in supposed.models)


def _wherever(question: Question) -> Question:
    """The question without who is to look: the files are the same for all of them."""
    return replace(question, reader="")


def _unread(question: Question, why: str) -> ArtifactRefusal:
    return ArtifactRefusal(
        reason=Reason.MODEL_NOT_FOUND, message=f"spec.model.source {question.source}: {why}"
    )


def _late(question: Question) -> ArtifactRefusal:
    return _unread(question, f"was not read within {READ_SECONDS:.0f} s")
