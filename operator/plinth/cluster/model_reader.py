"""Reads what the fleet's models are, behind the cycle's back: the adapter behind its `ModelReader` port.

Reading goes on in the background; until it is done the answer is None, and a wake-up follows. Models that ask the same
share one answer. A refusal is kept for a while, then asked about again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from plinth.api.v1alpha1 import ModelDeployment, Reason
from plinth.api.v1alpha1.meta import ResourceKey
from plinth.cluster.artifacts import read_artifact
from plinth.domain.fleet import Artifact, ArtifactRefusal
from plinth.engine.credentials import read_token
from plinth.engine.local_sources import SourcePlaces
from plinth.engine.seam import SourceError

RETRY_SECONDS = 30.0
UNANSWERED_SECONDS = 3.0
"""After so long a question that had no answer is asked again."""

Answer = Artifact | ArtifactRefusal


@dataclass(frozen=True, kw_only=True)
class Question:
    """All that decides what is read of a model: models with equal questions share the answer."""

    source: str
    revision: str | None
    credentials: str | None
    """`name/key` of the Secret."""
    namespace: str = ""
    """Whose the answer is; empty where it is the same for everybody."""
    reader: str | None = ""
    """Who can see the source, as `host:port`; empty where this process can, None where nobody is known yet."""


class Readings(Protocol):
    """How models are looked into."""

    def question(self, model: ModelDeployment) -> Question:
        """What is to be asked about a model."""

    async def answer(self, question: Question) -> Answer | None:
        """What was found; None where nobody answered."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    answer: Answer | None
    at: float

    def is_stale(self, now: float) -> bool:
        """Whether it is to be asked again; what was once read of a model stays."""
        if isinstance(self.answer, Artifact):
            return False
        return now - self.at > (UNANSWERED_SECONDS if self.answer is None else RETRY_SECONDS)


class BackgroundModelReader:
    """Asks each question once and keeps what it was told."""

    def __init__(self, readings: Readings, *, wake: Callable[[], None], clock: Callable[[], float]) -> None:
        self._readings = readings
        self._wake = wake
        self._clock = clock
        self._kept: dict[Question, _Kept] = {}
        self._pending: dict[Question, asyncio.Task[None]] = {}
        self._asked: dict[ResourceKey, Question] = {}
        self._answered: dict[ResourceKey, Question] = {}
        """The last question about each model that had an answer."""

    def read(self, model: ModelDeployment) -> Answer | None:
        """What is known of the model; None while it is being read."""
        question = self._asked[model.key] = self._readings.question(model)
        kept = self._kept.get(question)
        due = kept is None or kept.is_stale(self._clock())
        if due and question.reader is not None and question not in self._pending:
            self._pending[question] = asyncio.create_task(self._ask(question))
        if kept is not None and kept.answer is not None:
            self._answered[model.key] = question
            return kept.answer
        before = self._answered.get(model.key)
        if before is not None and replace(before, reader=question.reader) == question:
            return self._kept[before].answer  # only the reader is away, or another one now
        return None

    def forget_all_but(self, models: Iterable[ModelDeployment]) -> None:
        """Drop what was read of models that are gone."""
        left = {model.key for model in models}
        for questions in (self._asked, self._answered):
            for gone in questions.keys() - left:
                del questions[gone]
        for unused in self._kept.keys() - {*self._asked.values(), *self._answered.values()}:
            del self._kept[unused]

    async def _ask(self, question: Question) -> None:
        try:
            answer = await self._readings.answer(question)
        finally:
            del self._pending[question]
        if answer is None and question in self._kept:
            answer = self._kept[question].answer  # what was said before stands
        self._kept[question] = _Kept(answer=answer, at=self._clock())
        self._wake()


def make_question(model: ModelDeployment, *, namespace: str = "", reader: str | None = "") -> Question:
    """The question about a model's source."""
    asked = model.spec.model
    return Question(
        source=asked.source,
        revision=asked.revision,
        credentials=f"{asked.credentials.name}/{asked.credentials.key}" if asked.credentials else None,
        namespace=namespace,
        reader=reader,
    )


@dataclass(frozen=True, kw_only=True)
class MachineReadings:
    """On one machine: this process sees all that a replica will see, and the folder of secrets too."""

    secrets_dir: Path
    weights_needed: bool = True
    """Whether a model without weights is refused: it can be planned for, and not be served."""

    def question(self, model: ModelDeployment) -> Question:
        """See Readings."""
        return make_question(model)

    async def answer(self, question: Question) -> Answer:
        """See Readings."""
        return await asyncio.to_thread(self._read, question)

    def _read(self, question: Question) -> Answer:
        try:
            token = read_token(question.credentials, self.secrets_dir) if question.credentials else None
        except SourceError as error:
            message = f"spec.model.source {question.source}: {error}"
            return ArtifactRefusal(reason=Reason.MODEL_NOT_FOUND, message=message)
        return read_artifact(
            question.source,
            question.revision,
            token=token,
            places=SourcePlaces(),
            weights_needed=self.weights_needed,
        )
