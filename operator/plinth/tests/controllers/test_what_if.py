"""What is asked of a live fleet: what is read of models for it and what is not, and what the answer holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.cluster.capacity import CapacityObservation
from plinth.cluster.model_reader import Answer, MachineReadings, Question, make_question
from plinth.controllers import what_if
from plinth.controllers.cycle import Pass
from plinth.controllers.ports import Statuses
from plinth.controllers.what_if import BadQuestion, NotNow, Supposed, WhatIfs
from plinth.domain.fleet import FleetSnapshot, NodeState
from plinth.domain.planner import compute_plan
from plinth.domain.settling import settle
from plinth.domain.what_if import compute_what_if
from plinth.tests.domain.builders import (
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_resource,
    make_snapshot,
)
from plinth.tests.house.documents import ROOT

NOW = 1000.0
OBJECTIVES = {"concurrency": 1, "contextTokens": 2048}


def make_pass(snapshot: FleetSnapshot) -> Pass:
    plan = compute_plan(snapshot, NOW)
    return Pass(snapshot=snapshot, plan=plan, statuses=Statuses(), put=False, took_seconds=0.0)


def live(*, accelerators: int = 2, **changes: Any) -> FleetSnapshot:
    """A fleet where `default/chat` holds one accelerator."""
    chat = make_model(artifact=make_qwen_artifact(), source="hf://org/chat", objectives=OBJECTIVES)
    snapshot = make_snapshot(models=(chat,), nodes=(make_node(accelerators=accelerators),))
    return settle(replace(snapshot, **changes), NOW).snapshot


def ask_for(*models: ModelDeployment, pool: str | None = None, pools: tuple[GPUPool, ...] = ()) -> Supposed:
    return Supposed(pools=pools, models=models, pool=pool)


def make_asked(name: str = "other", **spec: Any) -> ModelDeployment:
    return make_resource(name, source=f"hf://org/{name}", **{"objectives": OBJECTIVES, **spec})


@dataclass
class FakeReadings:
    """Sources that are all the same model, looked into in the manner of a cluster."""

    seconds: float = 0.0
    reader: str | None = ""
    answer_with: Answer | None = field(default_factory=make_qwen_artifact)
    asked: list[str] = field(default_factory=list)

    def question(self, model: ModelDeployment) -> Question:
        namespace = model.metadata.namespace if model.spec.model.credentials else ""
        return make_question(model, namespace=namespace, reader=self.reader)

    async def answer(self, question: Question) -> Answer | None:
        self.asked.append(question.source)
        await asyncio.sleep(self.seconds)
        return self.answer_with


def make_what_ifs(
    snapshot: FleetSnapshot | None,
    readings: FakeReadings | MachineReadings | None = None,
    suppose: Callable[[Sequence[GPUPool]], CapacityObservation | None] = lambda _pools: None,
) -> WhatIfs:
    latest = None if snapshot is None else make_pass(snapshot)
    return WhatIfs(
        latest=lambda: latest, readings=readings or FakeReadings(), clock=lambda: NOW, suppose=suppose
    )


def reasons(document: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in document["pending"]}


async def test_the_answer_is_the_document_of_plinth_plan_and_what_would_change() -> None:
    document = await make_what_ifs(live()).answer(ask_for(make_asked()))
    assert json.loads(json.dumps(document)) == document
    assert [each["name"] for each in document["models"]] == ["other"]
    assert (document["pending"], document["settled"]) == ([], True)
    (change,) = document["changes"]
    assert (change["name"], change["action"], change["nodes"]) == ("other", "Create", ["node-1.local"])
    assert [(pool["gpus"], pool["gpusUsed"]) for pool in document["pools"]] == [(2, 2)]


async def test_the_reference_shows_every_field_of_the_document() -> None:
    shown = json.loads(code_block((ROOT / "docs/reference/plan.md").read_text(), "json"))
    document = await make_what_ifs(live(accelerators=1)).answer(ask_for(make_asked(priority=9)))
    document["models"][0]["rejected"] = shown["models"][0]["rejected"]
    assert fields(document) == fields(shown)


def code_block(text: str, language: str) -> str:
    """The first block of code in a language."""
    return text.partition(f"```{language}\n")[2].partition("```")[0]


def fields(value: Any) -> Any:
    """The names in a document, with how they lie in each other; of a list, those of its first entry."""
    if isinstance(value, dict):
        return {name: fields(each) for name, each in value.items()}
    return [fields(each) for each in value[:1]] if isinstance(value, list) else None


async def test_pending_tells_who_holds_the_accelerators_and_who_would_lose_theirs() -> None:
    full = live(accelerators=1)
    document = await make_what_ifs(full).answer(ask_for(make_asked()))
    assert reasons(document) == {"other": "InsufficientCapacity"}
    assert "held by default/chat (1 accelerator)" in document["pending"][0]["message"]
    document = await make_what_ifs(full).answer(ask_for(make_asked(priority=9)))
    assert reasons(document) == {"chat": "InsufficientCapacity"}
    assert [each["action"] for each in document["changes"]] == ["Drain", "Create"]


async def test_what_was_pending_before_is_not_laid_to_the_edit() -> None:
    waiting = make_model("waiting", artifact=make_qwen_artifact(), source="hf://org/w", pool="gone")
    snapshot = live(models=(*live().models, waiting))
    assert reasons(await make_what_ifs(snapshot).answer(ask_for(make_asked()))) == {}


async def test_a_replica_that_does_not_lead_says_so() -> None:
    with pytest.raises(NotNow, match="does not lead"):
        await make_what_ifs(None).answer(ask_for(make_asked()))


async def test_one_plan_is_made_at_a_time() -> None:
    what_ifs = make_what_ifs(live(), FakeReadings(seconds=0.05))
    first = asyncio.create_task(what_ifs.answer(ask_for(make_asked())))
    await asyncio.sleep(0)
    with pytest.raises(NotNow, match="another plan is being made"):
        await what_ifs.answer(ask_for(make_asked()))
    assert (await first)["models"]
    assert (await what_ifs.answer(ask_for(make_asked())))["models"]


async def test_the_cycle_goes_on_while_a_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    def slow(*arguments: Any) -> Any:
        while turns < 10:
            pass
        return compute_what_if(*arguments)

    monkeypatch.setattr(what_if, "compute_what_if", slow)
    answer = asyncio.create_task(make_what_ifs(live()).answer(ask_for(make_asked())))
    while not answer.done():
        turns += 1
        await asyncio.sleep(0.001)
    assert turns >= 10
    assert (await answer)["models"]


async def test_a_pool_that_is_not_there_is_a_bad_question_and_one_of_the_edit_is_there() -> None:
    what_ifs = make_what_ifs(live(pools=(make_pool("h200"),)))
    with pytest.raises(BadQuestion, match="there is no GPUPool b200; there is h200"):
        await what_ifs.answer(ask_for(make_asked(), pool="b200"))
    document = await what_ifs.answer(ask_for(make_asked(), pool="b200", pools=(make_pool("b200"),)))
    assert document["models"][0]["pool"] == "b200"


async def test_what_the_fleet_knows_of_a_source_is_not_read_again_and_equal_ones_are_read_once() -> None:
    readings = FakeReadings()
    asked = (make_asked("chat", priority=1), make_asked("a", model={"source": "hf://org/x"}))
    twin = make_asked("b").model_copy(update={"spec": asked[1].spec})
    await make_what_ifs(live(accelerators=4), readings).answer(ask_for(*asked, twin))
    assert readings.asked == ["hf://org/x"]


async def test_what_only_a_namespace_may_see_is_not_shown_by_a_plan() -> None:
    secret = {"source": "hf://org/private", "credentials": {"name": "hub", "key": "token"}}
    readings = FakeReadings()
    document = await make_what_ifs(live(), readings).answer(ask_for(make_asked(model=secret)))
    assert readings.asked == []
    assert reasons(document) == {"other": "ModelNotFound"}
    assert "is shown to models of default only" in document["pending"][0]["message"]


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        (FakeReadings(seconds=5.0), "was not read within 0 s"),
        (FakeReadings(reader=None), "can be looked into once a pool"),
        (FakeReadings(answer_with=None), "cannot be looked into now"),
    ],
)
async def test_a_model_that_cannot_be_read_stays_pending_and_says_why(
    monkeypatch: pytest.MonkeyPatch, readings: FakeReadings, said: str
) -> None:
    monkeypatch.setattr(what_if, "READ_SECONDS", 0.02)
    document = await make_what_ifs(live(), readings).answer(ask_for(make_asked()))
    assert said in document["pending"][0]["message"]


async def test_on_a_machine_a_folder_with_a_configuration_alone_can_be_planned_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(make_qwen_artifact().config)))
    readings = MachineReadings(secrets_dir=tmp_path, weights_needed=False)
    asked = make_asked(model={"source": f"file://{tmp_path}"})
    document = await make_what_ifs(live(), readings).answer(ask_for(asked))
    assert (document["pending"], document["models"][0]["gpus"]) == ([], 1)


async def test_a_pool_of_the_edit_brings_the_nodes_that_it_would_have() -> None:
    node = replace(
        make_node("new:b200/big/0", accelerators=8), pool="b200", state=NodeState.POTENTIAL, address=""
    )
    pools: list[str] = []

    def suppose(given: Sequence[GPUPool]) -> CapacityObservation:
        pools.extend(each.metadata.name for each in given)
        return CapacityObservation(rays=(), potential=(node,))

    what_ifs = make_what_ifs(live(pools=(make_pool("h200"),)), suppose=suppose)
    document = await what_ifs.answer(ask_for(make_asked(pool="b200"), pools=(make_pool("b200"),)))
    assert pools == ["h200", "b200"]
    assert [(each["action"], each["nodes"]) for each in document["changes"] if each["name"] == "other"] == [
        ("Await", ["new:b200/big/0"])
    ]
