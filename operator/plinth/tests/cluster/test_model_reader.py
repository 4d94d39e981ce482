"""Models are read behind the cycle's back, each question once, and nobody is told another's answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.model_reader import (
    RETRY_SECONDS,
    UNANSWERED_SECONDS,
    Answer,
    BackgroundModelReader,
    MachineReadings,
    Question,
    make_question,
)
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.tests.cluster.test_artifacts import make_folder

FOUND = Artifact(format=ModelFormat.GGUF, config={"general.architecture": "llama"}, weights_bytes=7)
OTHER = Artifact(format=ModelFormat.GGUF, config={}, weights_bytes=8)
REFUSED = ArtifactRefusal(reason="ModelNotFound", message="no")


def make_model(name: str = "chat", source: str = "hf://org/tiny", **model: Any) -> ModelDeployment:
    metadata = {"name": name, "namespace": model.pop("namespace", "team")}
    return ModelDeployment.model_validate(
        {"metadata": metadata, "spec": {"model": {"source": source, **model}}}
    )


class ScriptedReadings:
    """Answers what it is told to, and notes what it was asked."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = list(answers)
        self.asked: list[Question] = []
        self.reader: str | None = ""

    def question(self, model: ModelDeployment) -> Question:
        return make_question(model, reader=self.reader)

    async def answer(self, question: Question) -> Answer | None:
        self.asked.append(question)
        return self.answers.pop(0)


class Rig:
    """A reader with a clock in the test's hands."""

    def __init__(self, readings: Any) -> None:
        self.now = 0.0
        self.woken = asyncio.Event()
        self.reader = BackgroundModelReader(readings, wake=self.woken.set, clock=lambda: self.now)

    async def read(self, model: ModelDeployment) -> Answer | None:
        """What the model is told once whatever was begun by asking has ended."""
        self.woken.clear()
        self.reader.read(model)
        if self.reader._pending:
            async with asyncio.timeout(5):
                await self.woken.wait()
        return self.reader.read(model)


async def test_reading_happens_behind_the_cycles_back_and_wakes_it(tmp_path: Path) -> None:
    rig = Rig(MachineReadings(secrets_dir=tmp_path))
    model = make_model(source=f"file://{make_folder(tmp_path)}")
    assert rig.reader.read(model) is None
    async with asyncio.timeout(5):
        await rig.woken.wait()
    assert isinstance(rig.reader.read(model), Artifact)


async def test_on_one_machine_a_token_comes_from_the_folder_of_secrets(tmp_path: Path) -> None:
    rig = Rig(MachineReadings(secrets_dir=tmp_path))
    refusal = await rig.read(make_model(credentials={"name": "hub", "key": "token"}))
    assert isinstance(refusal, ArtifactRefusal)
    assert "secret hub/token cannot be read: No such file" in refusal.message


async def test_models_with_one_source_cost_one_read() -> None:
    readings = ScriptedReadings(FOUND)
    rig = Rig(readings)
    for number in range(1000):
        assert await rig.read(make_model(f"m{number}", namespace=f"team-{number % 7}")) == FOUND
    assert len(readings.asked) == 1


async def test_a_refusal_is_told_until_there_is_a_better_answer() -> None:
    rig = Rig(ScriptedReadings(REFUSED, FOUND))
    model = make_model()
    assert await rig.read(model) == REFUSED
    rig.now += RETRY_SECONDS
    assert await rig.read(model) == REFUSED
    rig.now += 0.1
    assert rig.reader.read(model) == REFUSED, "the old answer stands until there is a new one"
    assert await rig.read(model) == FOUND


async def test_a_question_that_nobody_answered_is_asked_again_soon() -> None:
    rig = Rig(ScriptedReadings(None, FOUND))
    model = make_model()
    assert await rig.read(model) is None
    rig.now += UNANSWERED_SECONDS + 0.1
    assert await rig.read(model) == FOUND


async def test_while_nobody_answers_the_last_refusal_stands() -> None:
    rig = Rig(ScriptedReadings(REFUSED, None))
    model = make_model()
    assert await rig.read(model) == REFUSED
    rig.now += RETRY_SECONDS + 0.1
    assert await rig.read(model) == REFUSED


async def test_nobody_is_asked_while_it_is_not_known_whom_to_ask() -> None:
    readings = ScriptedReadings(FOUND)
    rig = Rig(readings)
    readings.reader = None
    assert await rig.read(make_model()) is None
    assert readings.asked == []
    readings.reader = "10.0.0.1:8270"
    assert await rig.read(make_model()) == FOUND


async def test_what_was_read_stands_while_the_reader_is_away_and_until_a_new_one_has_answered() -> None:
    readings = ScriptedReadings(FOUND, OTHER)
    readings.reader = "10.0.0.1:8270"
    rig = Rig(readings)
    model = make_model()
    assert await rig.read(model) == FOUND
    readings.reader = None
    rig.reader.forget_all_but([model])
    assert await rig.read(model) == FOUND
    readings.reader = "10.0.0.2:8270"
    assert rig.reader.read(model) == FOUND
    assert await rig.read(model) == OTHER
    rig.reader.forget_all_but([model])
    assert len(rig.reader._kept) == 1


async def test_an_edited_source_is_not_told_the_old_ones_answer() -> None:
    rig = Rig(ScriptedReadings(FOUND, None))
    assert await rig.read(make_model()) == FOUND
    assert await rig.read(make_model(source="hf://org/other")) is None


async def test_what_was_read_of_models_that_are_gone_is_dropped() -> None:
    rig = Rig(ScriptedReadings(FOUND, OTHER))
    kept, gone = make_model("kept"), make_model("gone", source="hf://org/other")
    for model in (kept, gone):
        await rig.read(model)
    rig.reader.forget_all_but([kept])
    assert [question.source for question in rig.reader._kept] == ["hf://org/tiny"]
    assert rig.reader._answered.keys() == rig.reader._asked.keys() == {kept.key}
