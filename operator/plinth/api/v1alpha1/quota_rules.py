"""Rules of a QuotaPolicy: a limit that another one makes pointless is a mistake, and is refused as one."""

from __future__ import annotations

from pydantic.alias_generators import to_camel

from plinth.api.v1alpha1.rule import Rule, Shown


def _at_most(tight: str, wide: str) -> Rule:
    """A limit on the smaller share of use cannot exceed that on the larger one: it would never be reached."""
    narrow, broad = to_camel(tight), to_camel(wide)
    return Rule(
        field=narrow,
        must=f"must be at most {broad}",
        cel=f"!has(self.{narrow}) || !has(self.{broad}) || self.{narrow} <= self.{broad}",
        holds=lambda model: (
            getattr(model, tight) is None
            or getattr(model, wide) is None
            or getattr(model, tight) <= getattr(model, wide)
        ),
        remedy=f"lower it, raise {broad}, or leave out the one that is never reached",
        shown=Shown.NUMBER,
    )


ALLOWANCE = (
    _at_most("requests_per_second", "requests_per_minute"),
    _at_most("requests_per_minute", "requests_per_hour"),
    _at_most("requests_per_second", "requests_per_hour"),
    _at_most("input_tokens_per_minute", "input_tokens_per_day"),
    _at_most("output_tokens_per_minute", "output_tokens_per_day"),
    _at_most("total_tokens_per_minute", "total_tokens_per_day"),
    _at_most("input_tokens_per_minute", "total_tokens_per_minute"),
    _at_most("output_tokens_per_minute", "total_tokens_per_minute"),
    _at_most("input_tokens_per_day", "total_tokens_per_day"),
    _at_most("output_tokens_per_day", "total_tokens_per_day"),
)

QUOTA_POLICY = (
    Rule(
        field="models",
        must="must name each model once",
        cel="!has(self.models) || self.models.all(a, self.models.exists_one(b, b == a))",
        holds=lambda model: len(set(model.models)) == len(model.models),
        remedy="remove the repeated names",
    ),
)
