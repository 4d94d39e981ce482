"""The rules that span fields, in one table that both sides read.

Python checks `holds` when a model is made; the CRD carries `cel`, which the API server checks. A test runs
both over the same resources, so that a file that `plinth up` takes is one that `kubectl apply` takes.

A rule belongs to the model class whose name it is filed under and blames one field of it. Its words follow
the field's name: "minReplicas must be at most maxReplicas".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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

    def remedy_for(self, model: Any) -> str:
        """The remedy in the case of this model."""
        return self.remedy if isinstance(self.remedy, str) else self.remedy(model)


SCHEMES = ("hf://", "file://", "package://")

_HF = (
    r"^hf://[A-Za-z0-9][-._A-Za-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*(/[-._A-Za-z0-9]+)*"
    r"(@[A-Za-z0-9][-._/A-Za-z0-9]*)?$"
)
_FILE = r"^file:///.*$"
_PACKAGE = r"^package://[A-Za-z_][A-Za-z0-9_]*(/[-._A-Za-z0-9]+)*$"
_ARGUMENT = r"^[a-z][a-z0-9-]{0,63}$"
_LABEL_KEY = r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9][-_.A-Za-z0-9]{0,62}$"
_LABEL_VALUE = r"^[A-Za-z0-9]?[-_.A-Za-z0-9]{0,62}$"

OWNED_ARGUMENTS: dict[str, str] = {
    "alias": "set spec.servedName",
    "api-key": "leave it out: Plinth gives every engine the gateway's secret",
    "api-key-file": "leave it out: Plinth gives every engine the gateway's secret",
    "api-keys": "leave it out: Plinth gives every engine the gateway's secret",
    "ctx-size": "set spec.objectives.contextTokens",
    "gpu-memory-utilization": "set spec.memoryUtilizationPercent of the GPUPool",
    "host": "leave it out: Plinth decides where engines listen",
    "hostnames": "leave it out: Plinth decides where engines listen",
    "max-model-len": "set spec.objectives.contextTokens",
    "model": "set spec.model.source",
    "n-ctx": "set spec.objectives.contextTokens",
    "n-parallel": "set spec.objectives.concurrency",
    "port": "leave it out: Plinth decides where engines listen",
    "served-model-name": "set spec.servedName",
    "tensor-parallel-size": "set spec.parallelism.tensor",
}
"""Engine arguments that Plinth computes itself, each with where to say it instead."""


def _matches(pattern: str, text: str) -> bool:
    # `$` also matches before a last newline in Python, not in the RE2 of CEL; fullmatch agrees with RE2.
    return re.fullmatch(pattern, text) is not None


def _cel_text(pattern: str) -> str:
    return "'" + pattern.replace("\\", "\\\\") + "'"


def _cel_list(words: dict[str, str]) -> str:
    return "[" + ", ".join(f"'{word}'" for word in words) + "]"


def _source_form(scheme: str, pattern: str, must: str, remedy: str | Callable[[Any], str]) -> Rule:
    return Rule(
        field="source",
        must=must,
        cel=f"!self.source.startsWith('{scheme}') || self.source.matches({_cel_text(pattern)})",
        holds=lambda model: not model.source.startswith(scheme) or _matches(pattern, model.source),
        remedy=remedy,
    )


def _scheme_remedy(model: Any) -> str:
    scheme, found, rest = model.source.partition("://")
    if not found:
        kind = "file://" if model.source.startswith("/") else "hf://"
        return f"write {kind}{model.source}"
    return f"{scheme}:// is not a source that Plinth reads; download it and write file:///PATH/{rest.split('/')[-1]}"


def _only_for_hf(field: str, meaning: str) -> Rule:
    return Rule(
        field=field,
        must="must be absent unless source starts with hf://",
        cel=f"!has(self.{field}) || self.source.startsWith('hf://')",
        holds=lambda model: getattr(model, field) is None or model.source.startswith("hf://"),
        remedy=f"remove it: {meaning}",
    )


def _wrong_arguments(model: Any) -> str:
    wrong = next(name for name in model.args if not _matches(_ARGUMENT, name))
    return (
        f"{wrong!r} is not such a name; {wrong.lstrip('-').replace('_', '-').lower() or 'enforce-eager'!r} is"
    )


def _owned_arguments(model: Any) -> str:
    return "; ".join(f"{name}: {OWNED_ARGUMENTS[name]}" for name in model.args if name in OWNED_ARGUMENTS)


def _fit_remedy(model: Any) -> str:
    total = model.input_tokens + model.output_tokens
    return f"set contextTokens to {total} or more, or ask for fewer inputTokens or outputTokens"


MODEL_SOURCE = (
    Rule(
        field="source",
        must="must start with hf://, file:// or package://",
        cel=" || ".join(f"self.source.startsWith('{scheme}')" for scheme in SCHEMES),
        holds=lambda model: model.source.startswith(SCHEMES),
        remedy=_scheme_remedy,
    ),
    _source_form(
        "hf://",
        _HF,
        "must name a repository after hf://, as in hf://org/name, hf://org/name@revision or hf://org/name/file.gguf",
        "write the name as on the model's page, as in hf://Qwen/Qwen2.5-32B-Instruct",
    ),
    _source_form(
        "file://",
        _FILE,
        "must hold an absolute path after file://, as in file:///models/name",
        "write three slashes before the first folder",
    ),
    _source_form(
        "package://",
        _PACKAGE,
        "must name an installed Python module after package://, as in package://module/file.gguf",
        "write the module's import name, a slash, and the path inside it",
    ),
    Rule(
        field="source",
        must="must not hold '..'",
        cel="!self.source.contains('..')",
        holds=lambda model: ".." not in model.source,
        remedy="write the path out",
    ),
    Rule(
        field="revision",
        must="must not hold '..'",
        cel="!has(self.revision) || !self.revision.contains('..')",
        holds=lambda model: model.revision is None or ".." not in model.revision,
        remedy="write a branch, a tag or a commit",
    ),
    Rule(
        field="revision",
        must="must be absent where source names a revision after @",
        cel="!has(self.revision) || !self.source.contains('@')",
        holds=lambda model: model.revision is None or "@" not in model.source,
        remedy="keep one of the two",
    ),
    _only_for_hf("revision", "only hf:// sources have revisions"),
    _only_for_hf("credentials", "only hf:// sources ask for a token"),
)

ENGINE = (
    Rule(
        field="args",
        must="must have names of lowercase letters, digits and dashes, without dashes in front",
        cel=f"!has(self.args) || self.args.all(name, name.matches({_cel_text(_ARGUMENT)}))",
        holds=lambda model: all(_matches(_ARGUMENT, name) for name in model.args),
        remedy=_wrong_arguments,
    ),
    Rule(
        field="args",
        must="must leave out what Plinth computes: " + ", ".join(OWNED_ARGUMENTS),
        cel=f"!has(self.args) || self.args.all(name, !(name in {_cel_list(OWNED_ARGUMENTS)}))",
        holds=lambda model: not model.args.keys() & OWNED_ARGUMENTS.keys(),
        remedy=_owned_arguments,
    ),
)

OBJECTIVES = (
    Rule(
        field="contextTokens",
        must="must be at least inputTokens + outputTokens",
        # An absent one takes what the other leaves, at least one token.
        cel=(
            "(has(self.inputTokens) ? self.inputTokens : 1)"
            " + (has(self.outputTokens) ? self.outputTokens : 1) <= self.contextTokens"
        ),
        holds=lambda model: model.input_tokens + model.output_tokens <= model.context_tokens,
        remedy=_fit_remedy,
    ),
)

SCALING = (
    Rule(
        field="minReplicas",
        must="must be at most maxReplicas",
        cel="self.minReplicas <= self.maxReplicas",
        holds=lambda model: model.min_replicas <= model.max_replicas,
        remedy=lambda model: (
            f"set maxReplicas to {model.min_replicas} or more, or minReplicas to {model.max_replicas} or less"
        ),
    ),
)

MODEL_DEPLOYMENT = (
    Rule(
        field="parallelism.tensor",
        must="must be 1 with engine.type LlamaCpp",
        cel="self.engine.type != 'LlamaCpp' || !has(self.parallelism) || self.parallelism.tensor == 1",
        holds=lambda model: (
            model.engine.type != "LlamaCpp" or model.parallelism is None or model.parallelism.tensor == 1
        ),
        remedy="remove spec.parallelism, or set spec.engine.type to VLLM",
    ),
    Rule(
        field="objectives.tpotMilliseconds",
        must="must be absent unless model.task is Generate",
        cel="self.model.task == 'Generate' || !has(self.objectives.tpotMilliseconds)",
        holds=lambda model: model.model.task == "Generate" or model.objectives.tpot_milliseconds is None,
        remedy="remove it: embedding and reranking generate no tokens; ttftMilliseconds bounds the whole answer",
    ),
)

GPU_POOL = (
    Rule(
        field="nodeSelector",
        must="must hold label names and values of at most 63 letters, digits, '-', '_' and '.'",
        cel=(
            f"!has(self.nodeSelector) || self.nodeSelector.all(key, key.matches({_cel_text(_LABEL_KEY)})"
            f" && self.nodeSelector[key].matches({_cel_text(_LABEL_VALUE)}))"
        ),
        holds=lambda model: all(
            _matches(_LABEL_KEY, key) and _matches(_LABEL_VALUE, value)
            for key, value in model.node_selector.items()
        ),
        remedy="write labels as `ray list nodes --detail` shows them, as in ray.io/accelerator-type: H200",
    ),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "ModelSource": MODEL_SOURCE,
    "EngineSpec": ENGINE,
    "Objectives": OBJECTIVES,
    "Scaling": SCALING,
    "ModelDeploymentSpec": MODEL_DEPLOYMENT,
    "GPUPoolSpec": GPU_POOL,
}
"""By the name of the model class, so that this module needs none of them."""
