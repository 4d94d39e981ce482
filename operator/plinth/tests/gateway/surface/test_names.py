"""Aliases, versions, tenants, fallbacks."""

from __future__ import annotations

from typing import Any

from plinth.domain.traffic import Availability, ModelRoute
from plinth.gateway.surface.names import NameIndex


def route(
    model: str, *names: str, task: str = "Generate", refused: bool = False, **fields: Any
) -> ModelRoute:
    return ModelRoute(
        model=model,
        names=(*names, model),
        task=task,
        created=0,
        availability=Availability.REFUSED if refused else Availability.AVAILABLE,
        message="",
        replicas=(),
        **fields,
    )


def anyone(_route: ModelRoute) -> bool:
    return True


def found(index: NameIndex, name: str, tenant: str = "") -> str | None:
    target = index.find(name, tenant)
    return target.route.model if target else None


def test_own_names_aliases_and_versions_lead_to_their_models() -> None:
    index = NameIndex(
        [
            route(
                "a/full", "qwen32b-full", aliases=("qwen32b", "qwen32b@bf16"), adapters=("qwen32b-full:sql",)
            ),
            route("a/awq", "qwen32b-awq", aliases=("qwen32b@awq",)),
        ]
    )
    asked = (
        "qwen32b",
        "qwen32b@bf16",
        "qwen32b-full:sql",
        "qwen32b@awq",
        "qwen32b-awq",
        "a/awq",
        "qwen32b@fp8",
    )
    leads_to = ["a/full", "a/full", "a/full", "a/awq", "a/awq", "a/awq", None]
    assert [found(index, name) for name in asked] == leads_to


def test_an_unknown_version_is_refused_with_those_there_are() -> None:
    index = NameIndex([route("a/m", "m", aliases=("q@1", "q@2"))])
    refusal = index.missing("q@3", ["m"], anyone)
    assert refusal.status == 404
    assert "q, q@1, q@2" in refusal.message
    assert "there are: m" in index.missing("other", ["m"], anyone).message
    assert "there are: m" in index.missing("q@3", ["m"], lambda route: route.model != "a/m").message


def test_a_bare_name_that_nobody_has_goes_to_the_first_of_its_versions() -> None:
    index = NameIndex([route("a/two", aliases=("q@2",)), route("a/one", aliases=("q@1",))])
    assert found(index, "q") == "a/one"


def test_a_name_given_twice_leads_to_the_same_model_whatever_the_order_of_the_table() -> None:
    one, two = route("a/x", "x"), route("b/x", "x")
    for routes in ([one, two], [two, one]):
        index = NameIndex(routes)
        assert [found(index, name) for name in ("x", "a/x", "b/x")] == ["a/x", "a/x", "b/x"]


def test_an_alias_takes_no_name_from_the_model_that_is_called_so() -> None:
    index = NameIndex([route("a/x", "x", aliases=("q",)), route("b/q", "q")])
    assert found(index, "q") == "b/q"
    assert found(index, "q", tenant="a") == "a/x"


def test_a_tenants_own_model_comes_first() -> None:
    index = NameIndex([route("a/q", "q"), route("b/q", "q")])
    assert [found(index, "q", tenant) for tenant in ("", "a", "b", "c")] == ["a/q", "a/q", "b/q", "a/q"]


def test_fallbacks_follow_each_other_once_and_keep_the_task() -> None:
    index = NameIndex(
        [
            route("a/1", "1", fallbacks=("2", "e", "gone")),
            route("a/2", "2", fallbacks=("3", "1")),
            route("a/3", "3", fallbacks=("1",)),
            route("a/e", "e", task="Embed"),
        ]
    )
    target = index.find("1")
    assert target is not None
    assert [each.model for each in target.chain] == ["a/1", "a/2", "a/3"]


def test_the_next_route_is_one_that_may_answer() -> None:
    routes = [route("a/1", "1", refused=True, fallbacks=("2", "3")), route("a/2", "2"), route("a/3", "3")]
    target = NameIndex(routes).find("1")
    assert target is not None
    assert target.next(anyone) is routes[1]
    assert target.next(anyone, tried={"a/2"}) is routes[2]
    assert target.next(lambda each: each.model == "a/3") is routes[2]
    assert target.next(anyone, tried={"a/2", "a/3"}) is None
