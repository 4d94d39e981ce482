"""Numbers under /metrics: bounded, and never falling."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from plinth.gateway.telemetry.families import RequestFamilies
from plinth.gateway.telemetry.series import OTHER, Counter, Histogram, TopLabels
from plinth.tests.gateway.telemetry.records import make_record


def test_the_first_values_have_series_of_their_own_and_the_rest_is_other() -> None:
    top = TopLabels(2)
    assert [top.label(value) for value in "abcab"] == ["a", "b", OTHER, "a", "b"]


def test_a_value_used_more_takes_the_place_of_the_weakest_at_the_next_scrape() -> None:
    top = TopLabels(2)
    for value in "aaaab" + "c" * 10:
        top.label(value)
    assert top.label("c") == OTHER
    assert top.rank() == {"b"}
    assert [top.label(value) for value in "abc"] == ["a", OTHER, "c"]


def test_values_of_like_use_do_not_take_turns() -> None:
    top = TopLabels(1)
    for _ in range(20):
        for value in "aaabbbb":
            top.label(value)
        assert top.rank() == set()


def test_a_newcomer_is_counted_though_many_were_seen_before() -> None:
    top = TopLabels(2)
    for number in range(1000):
        top.label(f"seen-once-{number}")
    top.rank()
    for _ in range(10):
        top.label("new")
    top.rank()
    assert top.label("new") == "new"


@given(st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), max_size=80))
def test_a_series_never_falls_while_it_is_there_and_their_number_is_bounded(steps: list[str | None]) -> None:
    top, counter = TopLabels(2), Counter("uses", "Uses.", ("who",))
    before: dict[tuple[str, ...], float] = {}
    for step in steps:
        if step is not None:
            counter.add((top.label(step),))
            continue
        counter.end("who", top.rank())
        assert len(counter.values) <= 3
        assert all(counter.values[key] >= value for key, value in before.items() if key in counter.values)
        assert before.get((OTHER,), 0) <= counter.values.get((OTHER,), 0)
        before = dict(counter.values)


def test_a_metric_with_unbounded_labels_stops_growing() -> None:
    counter = Counter("uses", "Uses.", ("who",))
    histogram = Histogram("times", "Times.", labels=("who",), bounds=(1.0,))
    for number in range(5000):
        counter.add((str(number),))
        histogram.of((str(number),)).observe(0.5)
    assert len(counter.values) == len(histogram.series) == 4096


class Scrape(Collector):
    def __init__(self, families: RequestFamilies) -> None:
        self._families = families

    def collect(self) -> list[object]:  # type: ignore[override] # families are metrics
        return list(self._families.families())


def scraped(families: RequestFamilies) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Scrape(families))
    lines = generate_latest(registry).decode().splitlines()
    return [
        item
        for item in lines
        if not item.startswith("#") and "_bucket" not in item and "_created" not in item
    ]


def test_tokens_are_counted_by_model_and_policy() -> None:
    families = RequestFamilies()
    families.count(make_record())
    families.count(make_record(policy="team-a/free", prompt_tokens=10, output_tokens=5))
    lines = scraped(families)
    assert 'plinth_gateway_prompt_tokens_total{model="team-a/qwen",policy="team-a/gold"} 400.0' in lines
    assert 'plinth_gateway_output_tokens_total{model="team-a/qwen",policy="team-a/free"} 5.0' in lines
    label = 'code="200",endpoint="/v1/chat/completions",model="team-a/qwen",policy="team-a/gold"'
    assert f"plinth_gateway_requests_total{{{label}}} 1.0" in lines


def test_what_the_cache_gave_was_not_computed() -> None:
    families = RequestFamilies()
    families.count(make_record(cache="hit", attempts=[], first_token=0.0001))
    families.count(make_record(cache="fwd=miss; collapsed", attempts=[]))
    lines = scraped(families)
    assert 'plinth_gateway_cache_answers_total{model="team-a/qwen",outcome="hit"} 1.0' in lines
    assert 'plinth_gateway_cache_saved_tokens_total{model="team-a/qwen"} 1000.0' in lines
    assert not any(
        "_tokens_total" in item.replace("saved_tokens", "") or "first_token" in item for item in lines
    )


def test_waiting_and_the_first_token_are_told_by_band() -> None:
    families = RequestFamilies()
    families.count(make_record(band="bulk"))
    lines = scraped(families)
    assert 'plinth_gateway_held_seconds_sum{band="bulk",model="team-a/qwen"} 0.5' in lines
    first = 'plinth_gateway_time_to_first_token_seconds_sum{band="bulk",model="team-a/qwen"} 0.75'
    assert first in lines


def test_refusals_are_counted_by_reason() -> None:
    families = RequestFamilies()
    families.count(make_record(status=429, error="rate_limit_exceeded", attempts=[], first_token=None))
    assert 'plinth_gateway_refusals_total{policy="team-a/gold",reason="rate_limit_exceeded"} 1.0' in scraped(
        families
    )


def test_no_number_of_policies_makes_more_than_51_series() -> None:
    families = RequestFamilies()
    for scrape in range(5):
        for number in range(300):
            families.count(make_record(policy=f"team/{number}", attempts=[], first_token=None))
            if number % 7 == scrape:
                families.count(make_record(policy=f"team/{number}", attempts=[], first_token=None))
        policies = {item.split('policy="')[1] for item in scraped(families) if "_requests_total" in item}
        assert len(policies) <= 51
