import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.fleet import Engine
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.quantities import GIB
from plinth.domain.sizing.candidates import find_candidates
from plinth.domain.sizing.choice import ShapeChoice, SizingRefusal, choose
from plinth.domain.sizing.document import make_document
from plinth.domain.sizing.request import Asked, SizingRequest
from plinth.domain.sizing.rules import find_obstacle
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.sizing.sizing_builders import QWEN_7B, QWEN_30B_A3B, QWEN_32B, ask


def chosen(request: SizingRequest) -> ShapeChoice:
    found = choose(request)
    assert isinstance(found, ShapeChoice), found
    return found


def refused(request: SizingRequest) -> str:
    found = choose(request)
    assert isinstance(found, SizingRefusal), found
    return found.message


def reasons(choice: ShapeChoice) -> dict[str, str]:
    return {str(each.shape): each.reason for each in choice.rejected}


def test_forty_requests_of_8k_need_two_h200_and_the_plan_says_why_not_one() -> None:
    found = chosen(ask())
    assert found.shape == Shape(tensor=2)
    assert reasons(found) == {
        "TP1": "its KV cache holds 32 requests of 8192 tokens, 40 asked",
        "TP4": "2 accelerators more for the same goals",
    }
    assert "94 requests of 8192" in found.reasons[0]


def test_a_light_load_takes_one_and_a_heavy_one_more() -> None:
    assert chosen(ask(users=8)).shape == Shape()
    assert chosen(ask(users=80)).shape == Shape(tensor=2)
    assert chosen(ask(users=100)).shape == Shape(tensor=4)


def test_a_sharper_goal_takes_more_and_says_what_the_smaller_shape_would_miss() -> None:
    loose, sharp = (chosen(ask(context=2048, ttft_milliseconds=each)) for each in (3000, 1500))
    assert loose.shape == Shape()
    assert sharp.shape == Shape(tensor=2)
    assert sharp.predicted.ttft_milliseconds <= 1500
    assert reasons(sharp)["TP1"].startswith("TTFT p95 ")
    assert "2 replicas with a concurrency of 20 would meet it" in reasons(sharp)["TP1"]


def test_a_small_model_stays_on_one_accelerator() -> None:
    assert chosen(ask(QWEN_7B)).shape == Shape()


def test_when_no_shape_meets_the_goals_accelerators_are_taken_as_long_as_they_bring_it_clearly_nearer() -> (
    None
):
    found = chosen(ask(users=200, tpot_milliseconds=5))
    assert found.shape == Shape(tensor=4)
    assert found.missed[0].startswith("TPOT p95 ")
    assert found.missed[0].endswith("5 asked")
    assert "(the best trade between accelerators and goals that are missed)" in found.reasons[0]
    assert found.reasons[-1] == f"no shape here meets the goals: {found.missed[0]}, nor would a single user"
    assert reasons(found)["TP8"].startswith("still TPOT p95 ")
    assert reasons(found)["TP8"].endswith(" 5 asked, for 4 accelerators more")


def test_a_goal_that_is_out_of_reach_does_not_take_all_that_a_node_has() -> None:
    found = chosen(ask(QWEN_7B, users=4, context=1024, ttft_milliseconds=1))
    assert found.shape.accelerators < 8
    assert (found.promise.users, found.promise.worst) == (0, found.predicted.ttft_milliseconds * 1000)


def test_goals_that_are_missed_for_the_stated_users_are_met_for_fewer_and_the_plan_says_for_how_many() -> (
    None
):
    request = ask(gpu="H100", per_node=2, users=60, context=1024, ttft_milliseconds=1000)
    found = chosen(request)
    assert found.missed
    users = found.promise.users
    assert 0 < users < 60
    assert f"{users} users at once would be within them" in found.reasons[-1]
    within = chosen(replace(request, load=replace(request.load, concurrency=users)))
    assert not within.missed
    assert within.promise.users == users


def test_a_promise_that_is_kept_is_for_the_stated_users_at_the_price_of_the_place() -> None:
    promise = chosen(ask()).promise
    assert (promise.misses, promise.users, promise.worst) == ((), 40, 1000)
    assert promise.price == pytest.approx(2 * 3.9e9 / chosen(ask()).predicted.tokens_per_second, rel=0.001)


def test_copies_are_as_many_as_there_is_room_for_and_not_powers_of_two_only() -> None:
    six = {shape.data for shape in find_candidates(ask(QWEN_30B_A3B, per_node=6)) if shape.tensor == 1}
    assert six == {1, 2, 3, 4, 5, 6}
    by_hand = chosen(ask(QWEN_30B_A3B, per_node=6, asked=Asked(data=3)))
    assert by_hand.shape == Shape(data=3, expert=3)


def test_a_model_too_large_for_a_node_stands_in_stages_across_two() -> None:
    found = chosen(ask(gpu="L4", per_node=2, nodes=4, users=4, context=2048))
    assert found.shape.pipeline > 1
    assert found.shape.tensor * found.shape.pipeline > 2


def test_layers_are_split_within_one_link_domain_only() -> None:
    found = chosen(ask(gpu="H100-NVL", per_node=8, users=200))
    assert found.shape.tensor <= 2
    assert found.shape.pipeline > 1


def test_a_model_that_fits_nowhere_is_refused_with_every_obstacle_and_a_remedy() -> None:
    message = refused(ask(gpu="T4", per_node=1))
    assert message.startswith("no shape fits 1 node of 1 x T4: TP1: weights of 59.1 GiB an accelerator")
    assert "take a quantised model" in message


def test_what_stops_a_degree_is_said_once() -> None:
    found = chosen(ask(QWEN_30B_A3B, users=128, context=4096, tpot_milliseconds=8))
    stopped = [each.reason for each in found.rejected]
    assert stopped.count("3 does not divide the model's 4 KV heads") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            Asked(tensor=3),
            "spec.parallelism.tensor: 3 does not divide the model's 8 KV heads; 1, 2, 4 or 8 would",
        ),
        (
            Asked(tensor=16),
            "spec.parallelism.tensor: 16 does not divide the model's 40 attention heads; 1, 2, 4 or 8 would",
        ),
        (Asked(data=2), "spec.parallelism: TP1 x DP2 x EP2: the model has no experts to spread"),
        (
            Asked(pipeline=100),
            "spec.parallelism: TP1 x PP100: 100 stages are more than the model's 64 layers",
        ),
        (
            Asked(pipeline=9),
            "spec.parallelism.pipeline: 9 accelerators are more than the pool has (8)",
        ),
    ],
)
def test_degrees_by_hand_that_cannot_work_are_refused_with_those_that_would(
    asked: Asked, message: str
) -> None:
    assert refused(ask(asked=asked)) == message


def test_a_degree_that_no_node_has_is_refused() -> None:
    message = refused(ask(per_node=2, asked=Asked(tensor=4)))
    assert message.startswith(
        "spec.parallelism.tensor: 4 is more than a node of the pool has (2 accelerators)"
    )


def test_degrees_by_hand_are_taken_even_where_fewer_accelerators_would_do() -> None:
    found = chosen(ask(users=8, asked=Asked(tensor=4, pipeline=1)))
    assert found.shape == Shape(tensor=4)
    assert "asked for by hand" in found.reasons[0]
    staged = chosen(ask(users=8, asked=Asked(pipeline=2)))
    assert staged.shape.pipeline == 2


def test_a_cpu_runs_one_rank_and_says_so_of_more() -> None:
    request = ask(QWEN_7B, gpu="CPU", per_node=1, memory=64 * GIB, users=4, context=2048)
    assert chosen(request).shape == Shape()
    message = refused(replace(request, asked=Asked(tensor=2)))
    assert message == "spec.parallelism.tensor: 2 needs accelerators; on CPU nodes 1 would do"


def test_llamacpp_runs_on_one_accelerator() -> None:
    request = replace(ask(), engine=Engine.LLAMA_CPP)
    assert refused(request).endswith("with more memory")
    assert chosen(replace(ask(users=8), engine=Engine.LLAMA_CPP)).shape == Shape()


def test_the_document_has_the_names_and_types_of_the_plan() -> None:
    document = make_document(chosen(ask()))
    assert json.loads(json.dumps(document)) == document
    assert document["shape"] == {
        "tensorParallel": 2,
        "pipelineParallel": 1,
        "expertParallel": 1,
        "dataParallel": 1,
    }
    memory, predicted = document["memory"], document["predicted"]
    assert isinstance(memory, dict)
    assert isinstance(predicted, dict)
    assert list(memory) == [
        *("weightsBytesPerGpu", "adapterBytesPerGpu", "kvBytesPerGpu", "kvTokens", "overheadBytesPerGpu")
    ]
    assert all(type(value) is int for value in memory.values())
    assert isinstance(predicted.pop("costPerMillionTokens"), str)
    assert all(type(value) is int for value in predicted.values())


@given(
    users=st.integers(1, 300),
    context=st.sampled_from([1024, 8192, 32768]),
    model=st.sampled_from([QWEN_32B, QWEN_7B, QWEN_30B_A3B]),
    gpu=st.sampled_from(["H200", "A100-40GB", "L40S", "L4"]),
    ttft=st.sampled_from([200, 2000, 20_000]),
)
def test_what_is_chosen_works_holds_the_load_and_is_no_dearer_than_needed(
    users: int, context: int, model: ModelArchitecture, gpu: str, ttft: int
) -> None:
    request = ask(model, gpu=gpu, users=users, context=context, ttft_milliseconds=ttft)
    found = choose(request)
    if isinstance(found, SizingRefusal):
        assert found.message.startswith("no shape fits")
        return
    assert find_obstacle(request.model, found.shape) is None
    assert found.memory.full_requests >= users
    assert found.shape not in {each.shape for each in found.rejected}
    assert bool(found.missed) == (found.predicted.ttft_milliseconds > ttft)
    assert choose(request) == found
