"""The benchmark's side of the planner, on records made up from what was measured with Qwen2.5-32B's shape on H200."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import planner
import planner_fit
import pytest
from planner_case import FOLDER, Case, read_cases
from planner_choices import find_questions
from planner_prediction import (
    FIGURES,
    Measured,
    make_measured,
    memory_errors,
    predict_level,
    predict_memory,
    read_measured,
)

from plinth.domain.sizing.calibration import CALIBRATION
from plinth.domain.sizing.shape import Shape

CASES = {case.name: case for case in read_cases(FOLDER / "cases.yaml")}
TP1, TP2 = CASES["qwen2.5-32b-tp1"], CASES["qwen2.5-32b-tp2"]
H200 = {"name": "NVIDIA H200", "driver_version": "570", "memory.total": "143771"}


def make_record(
    case: Case, *, use: str = "held-out", slower: float = 1.0, **engine: list[float]
) -> dict[str, Any]:
    """A record of a case on the accelerator that it was measured on, with two levels."""
    config = {**case.config, "vocab_size": 49152}
    levels = [
        (1, 4, 54.3, 57.0, 57.5, 18.25) if case.tensor == 1 else (1, 6, 90.7, 36.8, 38.9, 10.92),
        (40, 80, 1428.0, 1600.0, 2035.0, 21.6)
        if case.tensor == 1
        else (40, 80, 2384.0, 840.0, 1170.0, 13.35),
    ]
    return {
        "case": {**asdict(case), "config": config, "use": use},
        "machine": {"accelerators": [H200]},
        "engine": {
            "weights_gib": [59.07] if case.tensor == 1 else [29.73, 29.73],
            "kv_gib": [64.93] if case.tensor == 1 else [94.63, 94.63],
            "kv_tokens": [265_952] if case.tensor == 1 else [775_216],
            **engine,
        },
        "loads": [
            {
                "users": users,
                "requests": requests,
                "input_tokens": 512,
                "output_tokens": 256,
                "output_tokens_per_second": speed / slower,
                "ttft_ms": {"p50": p50 * slower, "p99": p99 * slower},
                "tpot_ms": {"p50": tpot * slower},
            }
            for users, requests, speed, p50, p99, tpot in levels
        ],
    }


def measured(case: Case, **changes: Any) -> Measured:
    return make_measured(make_record(case, **changes))


def test_a_prediction_needs_the_config_and_the_accelerator_alone() -> None:
    case = measured(TP2)
    assert case.shape == Shape(tensor=2)
    assert max(memory_errors(case).values()) < 1
    predicted = predict_level(case, case.levels[1])
    assert list(predicted) == list(FIGURES)
    for name in FIGURES:
        assert predicted[name] == pytest.approx(case.levels[1].figures[name], rel=0.2)


def test_arguments_of_the_engine_are_taken_into_account() -> None:
    spread, narrow = CASES["qwen3-30b-a3b-tp2-ep"], CASES["qwen2.5-7b-fp8-kv-tp1"]
    assert measured(spread).shape == Shape(tensor=2, expert=2)
    assert measured(narrow).request.options.kv_element_bytes == 1
    limited = replace(
        TP1, args={"max-num-batched-tokens": "2048", "max-num-seqs": "64", "enforce-eager": "true"}
    )
    options = measured(limited).request.options
    assert (options.batched_tokens, options.sequences, options.graphs) == (2048, 64, False)


def test_every_case_that_is_to_be_measured_can_be_predicted() -> None:
    for case in CASES.values():
        found = measured(case)
        assert all(predict_level(found, level)["tokens_per_second"] > 0 for level in found.levels), case.name


def test_made_up_weights_of_a_router_in_groups_meet_the_same_experts_unless_routing_is_simulated() -> None:
    """DeepSeek-V2-Lite: 6 of 64 experts. Memory is that of all; a softmax over all of them at 32 bits tells them apart."""
    grouped, free = CASES["deepseek-v2-lite-tp1"], CASES["qwen3-30b-a3b-tp1"]
    unspread = replace(grouped, environment={})
    spread, alike, other = (measured(case) for case in (grouped, unspread, free))
    assert spread.stepping == spread.request.model
    assert other.stepping == other.request.model
    assert alike.request.model == spread.request.model
    assert {each.feed_forward.experts for each in alike.stepping.layers} == {0, 6}
    fast, slow = (predict_level(case, case.levels[1])["tpot_ms"] for case in (alike, spread))
    assert fast < slow / 2


def test_one_stall_pulls_no_harder_than_the_farthest() -> None:
    case = measured(TP1, use="calibration")
    stalled = replace(
        case,
        levels=tuple(replace(each, figures={**each.figures, "ttft_p99_ms": 1e9}) for each in case.levels),
    )
    assert min(planner_fit.speed_residuals([stalled], CALIBRATION)) == -0.5


def test_an_engine_that_never_started_is_left_out(tmp_path: Path) -> None:
    good, bad = make_record(TP1), make_record(TP2)
    bad["engine"] = {}
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    assert [case.name for case in read_measured(tmp_path)] == ["qwen2.5-32b-tp1"]


def test_the_records_tell_calibration_from_held_out_cases() -> None:
    found = {
        each.metric: each for each in planner.make_records([measured(TP1), measured(TP2, use="calibration")])
    }
    assert found["planner_memory_error_percent_worst"].met
    throughput = found["planner_throughput_error_percent_median"]
    assert throughput.met
    by_use = throughput.peers["by_use"]
    assert isinstance(by_use, dict)
    assert set(by_use) == {"all", "calibration", "held_out", "undisturbed"}
    assert found["planner_choice_misses"].value == 0
    assert found["planner_choice_misses"].peers["questions"] == 6


def test_without_measured_cases_no_goal_is_met_and_the_records_say_why() -> None:
    records = list(planner.make_records([]))
    assert all(record.value is None and record.met is False for record in records)
    assert all(record.peers["why"] == "no measured cases of the kind" for record in records)


def test_a_wrong_prediction_of_the_better_shape_is_a_miss() -> None:
    """Were TP2 measured three times slower than it is, the planner would still take it."""
    questions = find_questions([measured(TP1), measured(TP2, slower=3.0)])
    assert {(each.best, each.chosen) for each in questions if each.is_miss} == {("1 x TP1", "1 x TP2")}


def test_the_fit_finds_what_made_the_figures_and_leaves_alone_what_they_do_not_speak_of() -> None:
    """Figures made with other constants than those it starts from; cases that are held out must not move it."""
    constants = planner_fit.read_constants(CALIBRATION)
    other = planner_fit.with_constants(
        CALIBRATION, {**constants, "bandwidth_fraction": 0.7, "base_bytes": constants["base_bytes"] * 1.5}
    )
    case = _as_predicted(measured(TP1, use="calibration"), other)
    wild = _as_predicted(
        measured(TP2), planner_fit.with_constants(CALIBRATION, {**constants, "flops_fraction": 0.1})
    )
    found = planner_fit.fit([case, wild])
    assert found.speed.bandwidth_fraction < 0.95 * CALIBRATION.speed.bandwidth_fraction
    assert all(abs(each) < 0.02 for each in planner_fit.speed_residuals([case], found))
    assert found.memory.base_bytes == pytest.approx(other.memory.base_bytes, rel=0.02)
    assert found.speed.unpacking_flops_fraction == CALIBRATION.speed.unpacking_flops_fraction
    assert found.speed.link_fraction == CALIBRATION.speed.link_fraction


def test_constants_are_written_into_the_file_and_its_comments_stay() -> None:
    text = planner_fit.FILE.read_text()
    constants = planner_fit.read_constants(CALIBRATION)
    moved = planner_fit.with_constants(
        CALIBRATION, {**constants, "bandwidth_fraction": 0.8765, "NVLink": 9.5, "base_bytes": 123_456}
    )
    fresh = planner_fit.written(text, moved)
    assert "bandwidth_fraction: 0.8765 # of the memory's bandwidth, reading weights" in fresh
    assert "  base_bytes: 123_456 #" in fresh
    assert "{NVLink: 9.5, xGMI: 10," in fresh
    assert len(fresh.splitlines()) == len(text.splitlines())


def test_there_are_no_calibration_cases_to_fit_without_any() -> None:
    with pytest.raises(ValueError, match="no calibration cases"):
        planner_fit.fit([measured(TP1)])


def _as_predicted(case: Measured, calibration: Any) -> Measured:
    """The case with figures that the planner would have predicted with other constants."""
    plan = predict_memory(case, calibration)
    levels = tuple(replace(each, figures=predict_level(case, each, calibration)) for each in case.levels)
    return replace(
        case,
        levels=levels,
        weights_bytes=plan.weights_bytes,
        kv_tokens=plan.kv_tokens,
        overhead_bytes=plan.overhead_bytes,
    )
