"""The models: defaults, what follows from what, strictness about input and leniency about status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from plinth.api.v1alpha1 import (
    CONDITION_SENTENCES,
    KINDS,
    SENTENCES,
    Condition,
    ConditionType,
    GPUPool,
    GPUPoolStatus,
    ModelDeployment,
    ModelDeploymentStatus,
    Objectives,
    Progress,
    Reason,
    parse_resource,
)
from plinth.api.v1alpha1.errors import plain_type
from plinth.tests.api.building import model_document, pool_document
from plinth.tests.api.test_rules import refusals, specs
from plinth.tests.searching import examples


def workload(**given_fields: int) -> tuple[int, int]:
    objectives = Objectives.model_validate(given_fields)
    return objectives.input_tokens, objectives.output_tokens


def test_the_default_workload_fits_the_default_context() -> None:
    assert workload() == (512, 256)
    assert Objectives() == Objectives.model_validate({})


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        ({"contextTokens": 512}, (341, 171)),
        ({"contextTokens": 768}, (512, 256)),
        ({"contextTokens": 64}, (42, 22)),
        ({"contextTokens": 8192}, (512, 256)),
        ({"contextTokens": 512, "outputTokens": 100}, (412, 100)),
        ({"contextTokens": 512, "inputTokens": 500}, (500, 12)),
        ({"outputTokens": 2000}, (48, 2000)),
        ({"context_tokens": 512, "input_tokens": 500}, (500, 12)),
    ],
)
def test_a_workload_left_open_is_fitted_into_the_context(
    given_fields: dict[str, int], expected: tuple[int, int]
) -> None:
    assert workload(**given_fields) == expected


@given(st.integers(64, 10_000_000))
def test_a_context_alone_is_always_enough(context: int) -> None:
    tokens_in, tokens_out = workload(contextTokens=context)
    assert 1 <= tokens_in <= 512
    assert 1 <= tokens_out <= 256
    assert tokens_in + tokens_out <= context


@examples(100)
@given(specs)
def test_a_valid_resource_survives_being_written_and_read(spec: dict[str, Any]) -> None:
    document = model_document(**spec)
    if refusals(document):
        return
    resource = parse_resource(document)
    written = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert parse_resource(written) == resource
    assert type(resource).model_validate_json(resource.model_dump_json(by_alias=True)) == resource


def test_a_written_status_is_not_what_was_asked_for() -> None:
    document = pool_document() | {"status": {"nodes": "many"}}
    assert parse_resource(document).status == GPUPoolStatus()


def test_status_of_a_newer_plinth_is_read_without_what_it_added() -> None:
    status = ModelDeploymentStatus.model_validate(
        {"readyReplicas": 1, "tokensPerSecond": 5, "conditions": None}
    )
    assert status.ready_replicas == 1


def test_long_status_is_cut_and_never_refused() -> None:
    condition = Condition(
        type="Ready",
        status="False",
        reason="EngineFailed",
        message="x" * 40_000,
        last_transition_time="2026-01-01T00:00:00Z",
        observed_generation=1,
    )
    assert len(condition.message) == 32_768
    assert condition.message.endswith("x…")
    status = ModelDeploymentStatus(
        plan=["y" * 5_000] * 40,
        progress=[Progress(replica="r", phase="Loading")] * 20,
        conditions=[condition] * 17,
    )
    assert (len(status.plan), len(status.plan[0])) == (32, 1024)
    assert (len(status.progress), len(status.conditions)) == (16, 16)


def test_ready_replicas_are_shown_against_those_desired() -> None:
    status = ModelDeploymentStatus(ready_replicas=1, desired_replicas=3)
    assert status.model_dump(by_alias=True)["ready"] == "1/3"
    assert ModelDeploymentStatus.model_validate_json(status.model_dump_json(by_alias=True)) == status


def test_resources_do_not_change_under_their_readers() -> None:
    pool = parse_resource(pool_document())
    with pytest.raises(ValidationError, match="frozen"):
        pool.metadata = pool.metadata  # type: ignore[misc]


def test_a_pool_is_named_without_namespace_and_a_model_with_it() -> None:
    pool = GPUPool.model_validate(pool_document("h200"))
    model = ModelDeployment.model_validate(model_document("chat"))
    assert str(pool.key) == "GPUPool h200"
    assert str(model.key) == "ModelDeployment default/chat"


def test_every_condition_and_reason_has_a_sentence() -> None:
    assert set(CONDITION_SENTENCES) == set(ConditionType)
    assert set(SENTENCES) == set(Reason)
    assert all(text.endswith(".") for text in [*CONDITION_SENTENCES.values(), *SENTENCES.values()])


def models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        kind: Any = plain_type(field.annotation)
        kind = plain_type(kind.__args__[0]) if getattr(kind, "__origin__", None) is list else kind
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from models_below(kind)


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_field_says_what_it_means(kind: type[BaseModel]) -> None:
    silent = [
        f"{model.__name__}.{name}"
        for model in models_below(kind)
        for name, field in model.model_fields.items()
        if not (field.description or "").rstrip().endswith(".")
    ]
    assert silent == []
