"""Rules of the names, shares and adapters of a ModelDeployment, as far as one model's own text can break them.

What other models have to do with it is judged at admission, and told by the condition `Routed`.
"""

from __future__ import annotations

from plinth.api.v1alpha1.rule import Rule, Shown


def _each_once(field: str) -> Rule:
    return Rule(
        field=field,
        must="must hold each name once",
        cel=f"!has(self.{field}) || self.{field}.all(a, self.{field}.exists_one(b, b == a))",
        holds=lambda model: len(set(getattr(model, field))) == len(getattr(model, field)),
        remedy="remove the repeated names",
    )


MODEL_TRAFFIC = (
    _each_once("aliases"),
    _each_once("fallbacks"),
    Rule(
        field="adapters",
        must="must have names that differ",
        cel="!has(self.adapters) || self.adapters.all(a, self.adapters.exists_one(b, b.name == a.name))",
        holds=lambda model: len({each.name for each in model.adapters}) == len(model.adapters),
        remedy="give each adapter a name of its own",
    ),
    Rule(
        field="adapters",
        must="must be empty with engine.type LlamaCpp",
        cel="self.engine.type != 'LlamaCpp' || !has(self.adapters) || self.adapters.size() == 0",
        holds=lambda model: model.engine.type != "LlamaCpp" or not model.adapters,
        remedy="remove them, or set spec.engine.type to VLLM: Plinth loads adapters with vLLM only",
    ),
    Rule(
        field="adapters",
        must="must be empty unless model.task is Generate",
        cel="self.model.task == 'Generate' || !has(self.adapters) || self.adapters.size() == 0",
        holds=lambda model: model.model.task == "Generate" or not model.adapters,
        remedy="remove them: only models that generate have adapters here",
    ),
)

NOT_OF_ITSELF = (
    Rule(
        field="spec.traffic.of",
        must="must name another model",
        cel="!has(self.spec.traffic) || self.spec.traffic.of != self.metadata.name",
        holds=lambda model: model.spec.traffic is None or model.spec.traffic.of != model.metadata.name,
        remedy="a canary is a ModelDeployment of its own: name the one whose requests it takes",
        shown=Shown.TEXT,
    ),
)
"""A rule over the whole resource, since only there its own name is at hand."""
