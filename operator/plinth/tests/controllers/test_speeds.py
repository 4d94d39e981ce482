"""Which loads become stretches; one report every two seconds."""

from __future__ import annotations

from plinth.controllers.speeds import KEPT_STRETCHES, SpeedWatch
from plinth.domain.corrections import SpeedStretch
from plinth.domain.fleet import ModelKey, SlotName
from plinth.domain.traffic import ModelLoad


def replicas(*ordinals: int, revision: str = "r") -> frozenset[SlotName]:
    return frozenset(SlotName(ModelKey("team", "chat"), revision, each) for each in ordinals)


ONE, TWO = replicas(0), replicas(0, 1)


def watched(loads: list[tuple[int, int]], names: frozenset[SlotName] = ONE) -> tuple[SpeedStretch, ...]:
    """Each load is (in flight, tokens so far)."""
    watch = SpeedWatch()
    for turn, (in_flight, tokens) in enumerate(loads):
        watch.take(load(in_flight, tokens), names, 100.0 + 2 * turn)
    return watch.stretches


def load(in_flight: int, tokens: int) -> ModelLoad:
    return ModelLoad(in_flight=in_flight, queued=0, peak=in_flight, output_tokens_total=tokens)


def steady(count: int, *, in_flight: int = 8, rate: int = 100) -> list[tuple[int, int]]:
    return [(in_flight, 2 * rate * turn) for turn in range(count)]


def test_ten_seconds_of_steady_load_are_a_stretch() -> None:
    assert watched(steady(5)) == ()
    assert watched(steady(6)) == (SpeedStretch(revision="r", in_flight=8, tokens_per_second=100),)
    assert len(watched(steady(11))) == 2


def test_what_several_replicas_did_is_told_of_one() -> None:
    assert watched(steady(6), TWO) == (SpeedStretch(revision="r", in_flight=4, tokens_per_second=50),)


def test_load_that_more_than_doubles_is_not_steady() -> None:
    doubled = [(8, 0), (8, 200), (8, 400), (17, 600), (17, 800), (17, 1000)]
    assert watched(doubled) == ()


def test_a_replica_more_begins_anew() -> None:
    watch = SpeedWatch()
    for turn, (in_flight, tokens) in enumerate(steady(8)):
        watch.take(load(in_flight, tokens), ONE if turn < 4 else TWO, 2.0 * turn)
    assert watch.stretches == ()


def test_during_a_rollout_nobody_knows_which_revision_delivered() -> None:
    assert watched(steady(20), ONE | replicas(1, revision="s")) == ()


def test_what_is_broken_off_is_no_stretch() -> None:
    watch = SpeedWatch()
    for turn, (in_flight, tokens) in enumerate(steady(8)):
        watch.take(load(in_flight, tokens), ONE, 2.0 * turn)
        if turn == 3:
            watch.break_off()
    assert watch.stretches == ()


def test_a_model_that_generates_no_tokens_has_no_speed() -> None:
    assert watched([(8, 0)] * 20) == ()


def test_only_the_last_stretches_are_kept() -> None:
    assert len(watched(steady(400))) == KEPT_STRETCHES
