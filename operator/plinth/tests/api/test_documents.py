"""From YAML bytes to documents: the lines are right, and nothing that is written can harm the reader."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1.documents import (
    MAX_DEPTH,
    MAX_DOCUMENTS,
    MAX_VALUES,
    BrokenYAMLError,
    read_documents,
)
from plinth.tests.searching import examples


def broken(text: str | bytes) -> BrokenYAMLError:
    with pytest.raises(BrokenYAMLError) as caught:
        read_documents(text if isinstance(text, bytes) else text.encode())
    return caught.value


def value(text: str) -> object:
    (document,) = read_documents(text.encode())
    return document.value


def test_each_field_knows_its_line() -> None:
    one, two = read_documents(
        b"""# a comment
a: 1
b:
  - c: 1
  - d: {e: 2,
        f: 3}
---

g: 4
"""
    )
    lines = {path: one.line_of(path) for path in [("a",), ("b",), ("b", 0, "c"), ("b", 1, "d", "f")]}
    assert lines == {("a",): 2, ("b",): 3, ("b", 0, "c"): 4, ("b", 1, "d", "f"): 6}
    assert (one.line, two.line, two.line_of(("g",))) == (2, 9, 9)


def test_a_field_that_is_not_there_has_the_line_of_the_one_around_it() -> None:
    (document,) = read_documents(b"a: 1\nb:\n  c: 1\n")
    assert document.line_of(("b", "x", "y")) == 2
    assert document.line_of(("z",)) == 1


def test_values_are_read_as_kubectl_reads_them() -> None:
    text = "[1, -2, 1.5, true, no, null, ~, '1', 2026-01-01, 12:30, 0x10, !!str 5, text, '']"
    expected = [1, -2, 1.5, True, False, None, None, "1", "2026-01-01", "12:30", 16, "5", "text", ""]
    assert value(text) == expected


def test_keys_are_text_whatever_they_look_like() -> None:
    assert value("{1: a, on: b, 2026-01-01: c}") == {"1": "a", "on": "b", "2026-01-01": "c"}


def test_empty_documents_are_left_out() -> None:
    assert read_documents(b"") == []
    assert read_documents(b"---\n# nothing\n---\n---\n") == []
    assert len(read_documents(b"---\na: 1\n---\n")) == 1


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    (document,) = read_documents(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert document.value == {"a": 1, "b": 2}
    assert document.line_of(("b",)) == 2


def test_a_key_written_twice_is_told_with_both_lines_and_the_first_one_counts() -> None:
    (document,) = read_documents(b"a:\n  b: 1\n  c: 2\n  b: {x: 3}\n")
    assert document.value == {"a": {"b": 1, "c": 2}}
    (fault,) = document.repeated
    assert (fault.path, document.line_of(fault.location)) == ("a.b", 4)
    assert "line 2" in fault.remedy


def test_a_key_written_three_times_is_told_twice() -> None:
    (document,) = read_documents(b"a: 1\na: 2\na: 3\n")
    assert [document.line_of(fault.location) for fault in document.repeated] == [2, 3]


def test_the_same_key_in_two_mappings_is_not_written_twice() -> None:
    (document,) = read_documents(b"- {a: 1}\n- {a: 2}\n---\na: 3\n")[:1]
    assert document.repeated == ()


def test_aliases_work() -> None:
    assert value("a: &x {b: 1}\nc: *x\nd: &y 5\ne: *y\n") == {"a": {"b": 1}, "c": {"b": 1}, "d": 5, "e": 5}


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: *nowhere", "a: &x {b: *x}"])
def test_an_alias_must_stand_after_what_it_names(text: str) -> None:
    assert "alias" in broken(text).rule


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    start = time.perf_counter()
    assert str(MAX_VALUES) in broken("\n".join(levels)).rule
    assert time.perf_counter() - start < 1


def test_nesting_is_bounded_however_deep_it_goes() -> None:
    assert f"{MAX_DEPTH} levels" in broken("[" * 200_000).rule
    assert f"{MAX_DEPTH} levels" in broken("\n".join(" " * i + "- " for i in range(40)) + "x").rule
    read_documents(("[" * MAX_DEPTH + "]" * MAX_DEPTH).encode())


def test_size_is_bounded() -> None:
    assert "values" in broken("- a\n" * (MAX_VALUES + 1)).rule
    assert "documents" in broken("--- a\n" * (MAX_DOCUMENTS + 1)).rule


def test_the_bound_of_values_is_one_for_all_documents() -> None:
    half = "- a\n" * (MAX_VALUES // 2)
    assert "values" in broken(f"{half}---\n{half}---\n{half}").rule


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "must be YAML"),
        ("a: 1\n\tb: 2\n", 2, "must be YAML"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "tag"),
        ("a: !secret x\n", 1, "tag"),
        ("a: 1\n? [b]\n: 2\n", 2, "keys"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge key"),
        ("a: 1\nb: !!int x\n", 2, "type int"),
        (b"a: 1\nb: \xff\n", 2, "UTF-8"),
        (b"a: \x00", 1, "must be YAML"),
        ("a: " + "9" * 5000, 1, "type int"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str | bytes, line: int, part: str) -> None:
    error = broken(text)
    assert part in error.rule
    assert error.line == line
    assert error.remedy


@examples(300)
@given(st.binary(max_size=200) | st.text("ab:{}[],-&*!|>'\"?#% \n\t1", max_size=80).map(str.encode))
def test_any_bytes_are_documents_or_an_error_with_a_line(data: bytes) -> None:
    try:
        lines = [document.line for document in read_documents(data)]
    except BrokenYAMLError as error:
        lines = [error.line]
    last = max(1, len(data.decode(errors="replace").splitlines()))
    assert all(1 <= line <= last for line in lines)
