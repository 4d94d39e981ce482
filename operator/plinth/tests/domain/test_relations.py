"""Shares of traffic, aliases and fallbacks: what is in effect, what is not and why, in whatever order models came."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import ConditionType
from plinth.domain.fleet import FleetPlan, Model, ModelKey
from plinth.domain.naming import resolve_names
from plinth.domain.planner import compute_plan
from plinth.domain.relations import Relations, resolve_relations
from plinth.domain.traffic import ModelRoute, TrafficShare
from plinth.tests.domain.builders import make_model, make_snapshot


def relations(*models: Model) -> dict[str, Relations]:
    return {str(key): found for key, found in resolve_relations(models, resolve_names(models)).items()}


def messages(found: dict[str, Relations], name: str) -> list[str]:
    return [fault.message for fault in found[f"default/{name}"].faults]


def taking(name: str, of: str, percent: int = 10, *, mirror: int = 0, **more: Any) -> Model:
    return make_model(name, traffic={"of": of, "percent": percent, "mirrorPercent": mirror}, **more)


def share(name: str, percent: int, mirror: int = 0) -> TrafficShare:
    return TrafficShare(model=f"default/{name}", percent=percent, mirror_percent=mirror)


def test_models_that_say_nothing_of_others_have_no_relations() -> None:
    assert relations(make_model("a"), make_model("b", "elsewhere")) == {}


def test_a_canary_and_a_mirror_take_their_parts_whichever_came_first() -> None:
    models = (make_model("main"), taking("canary", "main", 5), taking("mirror", "main", 0, mirror=100))
    for order in permutations(models):
        found = relations(*order)
        assert found == {"default/main": Relations(shares=(share("canary", 5), share("mirror", 0, 100)))}


def test_a_canary_whose_model_is_away_takes_nothing_and_says_so() -> None:
    elsewhere = make_model("main", "elsewhere")
    found = relations(taking("canary", "main"), elsewhere)
    assert messages(found, "canary") == ["spec.traffic.of: there is no ModelDeployment default/main yet"]
    assert found.keys() == {"default/canary"}


def test_where_shares_are_too_large_together_those_that_were_there_first_have_theirs() -> None:
    found = relations(
        make_model("main"),
        taking("late", "main", 40, first_seen=2.0),
        taking("early", "main", 70, first_seen=1.0),
        taking("last", "main", 30, first_seen=3.0),
    )
    assert found["default/main"].shares == (share("early", 70), share("last", 30))
    assert messages(found, "late") == [
        "spec.traffic.percent: 40 with the 70 that other models take of default/main is above 100; ask for 30 at most"
    ]


def test_two_models_that_each_take_of_the_other_take_nothing() -> None:
    found = relations(taking("a", "b"), taking("b", "a"))
    assert not any(each.shares for each in found.values())
    assert messages(found, "a")[0].startswith("spec.traffic.of: default/b takes part in the requests of a")


def test_a_model_of_another_task_takes_nothing() -> None:
    embedding = {"source": "package://m/x.gguf", "task": "Embed"}
    found = relations(make_model("main"), taking("canary", "main", model=embedding))
    assert messages(found, "canary") == [
        "spec.traffic.of: default/main is asked to Generate, this model to Embed"
    ]


taken = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.integers(0, 100), st.integers(0, 100)),
    max_size=4,
    unique_by=lambda each: each[0],
)


@given(taken)
def test_whatever_is_asked_no_model_gives_more_than_all_nor_takes_and_gives(
    asked: list[tuple[str, str, int, int]],
) -> None:
    takers = {
        name: taking(name, of, part, mirror=mirror, first_seen=float(number))
        for number, (name, of, part, mirror) in enumerate(asked)
        if name != of
    }
    models = [takers.get(name, make_model(name)) for name in "abcd"]
    found = relations(*models)
    for key, each in found.items():
        assert sum(part.percent for part in each.shares) <= 100
        assert sum(part.mirror_percent for part in each.shares) <= 100
        assert not each.shares or key.partition("/")[2] not in takers
    given_out = {part.model for each in found.values() for part in each.shares}
    for name in takers:
        told = bool(found.get(f"default/{name}", Relations()).faults)
        assert told != (f"default/{name}" in given_out), "it takes part, or it says why not"


def test_an_alias_leads_to_the_model_that_is_called_so() -> None:
    found = relations(make_model("a", aliases=["b", "best"]), make_model("b"))
    assert messages(found, "a") == ["spec.aliases: default/b answers to b; remove it here or there"]


def test_an_alias_of_two_models_leads_to_the_first_by_name() -> None:
    found = relations(make_model("b", aliases=["best"]), make_model("a", aliases=["best"], first_seen=9.0))
    assert found.keys() == {"default/b"}
    assert messages(found, "b") == ["spec.aliases: default/a answers to best; remove it here or there"]


def test_a_tenants_own_alias_is_before_anothers_name() -> None:
    assert relations(make_model("a", "team", aliases=["gpt"]), make_model("gpt", "elsewhere")) == {}


def test_an_adapter_whose_name_is_a_models_own_is_told() -> None:
    adapted = make_model("llama", adapters=[{"name": "8b", "source": "hf://o/a"}], aliases=["llama:8b"])
    found = relations(make_model("a", served_name="llama:8b"), adapted)
    assert messages(found, "llama") == [
        "spec.aliases: default/a answers to llama:8b; remove it here or there",
        "spec.adapters: default/a answers to llama:8b; remove it here or there",
    ]
    assert relations(adapted) == {}


def test_versions_share_a_bare_name_without_a_word() -> None:
    awq, full = make_model("a", aliases=["qwen@awq"]), make_model("b", aliases=["qwen@bf16"])
    assert relations(awq, full) == {}


@pytest.mark.parametrize(
    ("fallback", "words"),
    [
        ("small", "no model answers to small yet"),
        ("main", "main is this model; remove it"),
        ("default/main", "default/main is this model; remove it"),
        ("embed", "embed is asked to Embed, this model to Generate"),
    ],
)
def test_a_fallback_that_will_never_answer_is_told(fallback: str, words: str) -> None:
    embedding = make_model("embed", model={"source": "package://m/x.gguf", "task": "Embed"})
    found = relations(make_model("main", fallbacks=[fallback, "spare"]), make_model("spare"), embedding)
    assert messages(found, "main") == [f"spec.fallbacks: {words}"]


def test_models_may_fall_back_to_each_other_and_to_versions() -> None:
    a, b = make_model("a", fallbacks=["b@v1", "b"]), make_model("b", fallbacks=["a"], aliases=["b@v1"])
    assert relations(a, b) == {}


# In a plan


def plan(*models: Model) -> FleetPlan:
    return compute_plan(make_snapshot(models=models), 0.0)


def route_of(found: FleetPlan, name: str) -> ModelRoute:
    return next(route for route in found.routes.models if route.model == f"default/{name}")


def routed(found: FleetPlan, name: str) -> tuple[bool | None, str]:
    model = next(each for each in found.models if each.key == ModelKey("default", name))
    return next((v.status, v.reason) for v in model.verdicts if v.type == ConditionType.ROUTED)


def test_a_plan_gives_the_route_its_shares_and_the_status_its_condition() -> None:
    found = plan(make_model("main"), taking("canary", "main", 5), taking("lost", "nobody"))
    assert route_of(found, "main").shares == (share("canary", 5),)
    assert routed(found, "main") == (True, "AsAsked")
    assert routed(found, "canary") == (True, "AsAsked")
    assert routed(found, "lost") == (False, "UnknownModel")


def test_what_is_not_in_effect_holds_no_model_back() -> None:
    alone, related = plan(make_model("a")), plan(make_model("a", fallbacks=["nobody"]))
    assert [plan.action for plan in related.models[0].slots] == [
        plan.action for plan in alone.models[0].slots
    ]
    ready = [
        [v for v in each.models[0].verdicts if v.type == ConditionType.READY] for each in (alone, related)
    ]
    assert ready[0] == ready[1]


def test_taking_part_is_no_new_revision() -> None:
    plain, related = (
        plan(make_model("a")),
        plan(make_model("a", aliases=["x"], routing={"strategy": "LeastLoad"})),
    )
    assert plain.models[0].revision == related.models[0].revision
