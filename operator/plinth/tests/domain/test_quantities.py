import pytest

from plinth.domain.quantities import (
    GIB,
    MIB,
    ceil_div,
    format_bytes,
    format_count,
    format_duration,
    multiply_money,
    plural,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (98 * MIB, "98.0 MiB"),
        (31_889_889_034, "29.7 GiB"),
        (2048 * GIB, "2.0 TiB"),
    ],
)
def test_bytes_are_told_in_the_largest_unit_that_gives_one(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_counts_are_shortened_from_ten_thousand_on() -> None:
    assert [format_count(n) for n in (8192, 9_999, 10_000, 775_216)] == ["8192", "9999", "10k", "775k"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (-3, "0 s"),
    ],
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_money_is_multiplied_without_floats_and_told_without_trailing_zeros() -> None:
    assert multiply_money("3.90", 2) == "7.8"
    assert multiply_money("0.1", 3) == "0.3"
    assert multiply_money("10", 10) == "100"
    assert multiply_money("0", 8) == "0"


def test_one_thing_is_singular_and_none_is_plural() -> None:
    assert [plural(n, "replica") for n in (0, 1, 2)] == ["0 replicas", "1 replica", "2 replicas"]


def test_division_rounds_up() -> None:
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
