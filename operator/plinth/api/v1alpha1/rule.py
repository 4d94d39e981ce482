"""One rule over the fields of a model, said twice: in Python for files, in CEL for the API server.

The tables are in `rules`. What a rule says follows the field's name: "minReplicas must be at most maxReplicas",
then the value found, then what would work. Both sides say it in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Shown(Enum):
    """Whether a message repeats the value found, and of which type that is."""

    NOTHING = ""
    TEXT = ', got "%s"'
    NUMBER = ", got %d"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One condition over the fields of a model; `cel` and `holds` are the same condition."""

    field: str
    """Path below the model of the field to blame, on the wire."""
    must: str
    cel: str
    holds: Callable[[Any], bool]
    remedy: str | Callable[[Any], str]
    """What would work, given the model."""
    cel_remedy: str = ""
    """A remedy that depends on the model, as text with %s and %d in the place of `cel_values`."""
    cel_values: tuple[str, ...] = ()
    shown: Shown = Shown.NOTHING

    def remedy_for(self, model: Any) -> str:
        """The remedy in the case of this model."""
        return self.remedy if isinstance(self.remedy, str) else self.remedy(model)

    @property
    def message(self) -> str:
        """What the API server says where it can say nothing about the values."""
        return f"{self.must}; {self.remedy}" if isinstance(self.remedy, str) else self.must

    @property
    def message_expression(self) -> str:
        """What it says about the values, as an expression; empty where `message` says all.

        One call of `format` over the whole text: the API server bounds what an expression may cost, and text that
        is put together piece by piece has no bound that it knows once a piece was a number.
        """
        if self.shown is Shown.NOTHING and not self.cel_remedy:
            return ""
        text = f"{self.must}{self.shown.value}; {self.cel_remedy or self.remedy}"
        values = [f"self.{self.field}"] if self.shown is not Shown.NOTHING else []
        return f"{cel_text(text)}.format([{', '.join((*values, *self.cel_values))}])"


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One condition over a model before and after an edit; `cel` and `holds` are the same condition."""

    field: str
    must: str
    cel: str
    holds: Callable[[Any, Any], bool]
    """Given the model as it is to be, and as it was."""
    remedy: str

    @property
    def message(self) -> str:
        """What the API server says."""
        return f"{self.must}; {self.remedy}"


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches, as it does in the RE2 of CEL.

    Python's `$` also matches before a last newline, RE2's does not; fullmatch agrees with RE2.
    """
    return re.fullmatch(pattern, text) is not None


def cel_text(text: str) -> str:
    """The text as a literal of CEL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def cel_list(words: Iterable[str]) -> str:
    """The words as a list literal of CEL."""
    return "[" + ", ".join(cel_text(word) for word in words) + "]"


def cel_map(entries: dict[str, str]) -> str:
    """The entries as a map literal of CEL."""
    return "{" + ", ".join(f"{cel_text(key)}: {cel_text(value)}" for key, value in entries.items()) + "}"
