"""Rules of a ModelDeployment: what a source may say, which engine arguments are the user's, which bounds agree."""

from __future__ import annotations

from typing import Any

from plinth.api.v1alpha1.owned_arguments import LEAVE_OUT, OWNED_ARGUMENTS, SAID_ELSEWHERE
from plinth.api.v1alpha1.rule import Rule, Shown, cel_list, cel_map, cel_text, matches

SCHEMES = ("hf://", "file://", "package://", "pvc://")

_HF = (
    r"^hf://[A-Za-z0-9][-._A-Za-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*(/[-._A-Za-z0-9]+)*"
    r"(@[A-Za-z0-9][-._/A-Za-z0-9]*)?$"
)
_FILE = r"^file:///.*$"
_PACKAGE = r"^package://[A-Za-z_][A-Za-z0-9_]*(/[-._A-Za-z0-9]+)*$"
_PVC = r"^pvc://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(/[^/]+)*/?$"
_ARGUMENT = r"^[a-z][a-z0-9-]{0,63}$"


def _source_form(scheme: str, pattern: str, must: str, remedy: str) -> Rule:
    return Rule(
        field="source",
        must=must,
        cel=f"!self.source.startsWith('{scheme}') || self.source.matches({cel_text(pattern)})",
        holds=lambda model: not model.source.startswith(scheme) or matches(pattern, model.source),
        remedy=remedy,
        shown=Shown.TEXT,
    )


_HUB_PAGE = "https://huggingface.co/"


def _scheme_remedy(model: Any) -> str:
    if model.source.startswith(_HUB_PAGE):
        return f"write hf://{model.source.removeprefix(_HUB_PAGE)}"
    scheme, found, rest = model.source.partition("://")
    if not found:
        kind = "file://" if model.source.startswith("/") else "hf://"
        return f"write {kind}{model.source}"
    return f"{scheme}:// is not a source that Plinth reads; download it and write file:///PATH/{rest.split('/')[-1]}"


_CEL_SCHEME_REMEDY = (
    f"self.source.startsWith('{_HUB_PAGE}') ? 'write hf://' + self.source.substring({len(_HUB_PAGE)})"
    " : self.source.contains('://')"
    " ? self.source.split('://')[0] + ':// is not a source that Plinth reads; download it and write file:///PATH/'"
    " + self.source.substring(self.source.lastIndexOf('/') + 1)"
    " : 'write ' + (self.source.startsWith('/') ? 'file://' : 'hf://') + self.source"
)


def _only_for_hf(field: str, meaning: str, *, shown: Shown = Shown.NOTHING) -> Rule:
    return Rule(
        field=field,
        must="must be absent unless source starts with hf://",
        cel=f"!has(self.{field}) || self.source.startsWith('hf://')",
        holds=lambda model: getattr(model, field) is None or model.source.startswith("hf://"),
        remedy=f"remove it: {meaning}",
        shown=shown,
    )


SOURCE = (
    Rule(
        field="source",
        must="must start with hf://, file://, package:// or pvc://",
        cel=" || ".join(f"self.source.startsWith('{scheme}')" for scheme in SCHEMES),
        holds=lambda model: model.source.startswith(SCHEMES),
        remedy=_scheme_remedy,
        cel_remedy="%s",
        cel_values=(_CEL_SCHEME_REMEDY,),
        shown=Shown.TEXT,
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
    _source_form(
        "pvc://",
        _PVC,
        "must name a PersistentVolumeClaim after pvc://, as in pvc://claim/models/name",
        "write the claim's name, a slash, and the path inside the volume",
    ),
    Rule(
        field="source",
        must="must not hold '..'",
        cel="!self.source.contains('..')",
        holds=lambda model: ".." not in model.source,
        remedy="write the path out",
        shown=Shown.TEXT,
    ),
)
"""Of whatever names where files come from."""

MODEL_SOURCE = (
    *SOURCE,
    Rule(
        field="revision",
        must="must not hold '..'",
        cel="!has(self.revision) || !self.revision.contains('..')",
        holds=lambda model: model.revision is None or ".." not in model.revision,
        remedy="write a branch, a tag or a commit",
        shown=Shown.TEXT,
    ),
    Rule(
        field="revision",
        must="must be absent where source names a revision after @",
        cel="!has(self.revision) || !self.source.contains('@')",
        holds=lambda model: model.revision is None or "@" not in model.source,
        remedy="keep one of the two",
        shown=Shown.TEXT,
    ),
    _only_for_hf("revision", "only hf:// sources have revisions", shown=Shown.TEXT),
    _only_for_hf("credentials", "only hf:// sources ask for a token"),
)


def _wrong_arguments(model: Any) -> str:
    wrong = min(name for name in model.args if not matches(_ARGUMENT, name))
    return (
        f"'{wrong}' is not such a name; '{wrong.lstrip('-').replace('_', '-').lower() or 'enforce-eager'}' is"
    )


_CEL_WRONG_ARGUMENTS = f"self.args.filter(name, !name.matches({cel_text(_ARGUMENT)}))"


def _owned_arguments(model: Any) -> str:
    return "; ".join(
        f"{name}: {OWNED_ARGUMENTS[name]}" for name in sorted(model.args) if name in OWNED_ARGUMENTS
    )


_CEL_OWNED = cel_list(OWNED_ARGUMENTS)
_CEL_OWNED_ARGUMENTS = f"self.args.filter(name, name in {_CEL_OWNED})"
_CEL_ELSEWHERE = cel_map(SAID_ELSEWHERE)
_CEL_INSTEAD = f"{_CEL_OWNED_ARGUMENTS}.map(name, name in {_CEL_ELSEWHERE} ? {_CEL_ELSEWHERE}[name] : {cel_text(LEAVE_OUT)})"

ENGINE = (
    Rule(
        field="args",
        must="must have names of lowercase letters, digits and dashes, without dashes in front",
        cel=f"!has(self.args) || self.args.all(name, name.matches({cel_text(_ARGUMENT)}))",
        holds=lambda model: all(matches(_ARGUMENT, name) for name in model.args),
        remedy=_wrong_arguments,
        cel_remedy="%s is not; write it as in 'enforce-eager'",
        cel_values=(_CEL_WRONG_ARGUMENTS,),
    ),
    Rule(
        field="args",
        must="must leave out what Plinth sets itself",
        cel=f"!has(self.args) || self.args.all(name, !(name in {_CEL_OWNED}))",
        holds=lambda model: not model.args.keys() & OWNED_ARGUMENTS.keys(),
        remedy=_owned_arguments,
        cel_remedy="%s: %s",
        cel_values=(_CEL_OWNED_ARGUMENTS, _CEL_INSTEAD),
    ),
)


def _fit_remedy(model: Any) -> str:
    total = model.input_tokens + model.output_tokens
    return f"set contextTokens to {total} or more, or ask for fewer inputTokens or outputTokens"


# An absent one takes what the other leaves, at least one token.
_CEL_WORKLOAD = (
    "(has(self.inputTokens) ? self.inputTokens : 1) + (has(self.outputTokens) ? self.outputTokens : 1)"
)

OBJECTIVES = (
    Rule(
        field="contextTokens",
        must="must be at least inputTokens + outputTokens",
        cel=f"{_CEL_WORKLOAD} <= self.contextTokens",
        holds=lambda model: model.input_tokens + model.output_tokens <= model.context_tokens,
        remedy=_fit_remedy,
        cel_remedy="set contextTokens to %d or more, or ask for fewer inputTokens or outputTokens",
        cel_values=(_CEL_WORKLOAD,),
        shown=Shown.NUMBER,
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
        cel_remedy="set maxReplicas to %d or more, or minReplicas to %d or less",
        cel_values=("self.minReplicas", "self.maxReplicas"),
        shown=Shown.NUMBER,
    ),
)


def _one_with_llamacpp(degree: str) -> Rule:
    return Rule(
        field=f"parallelism.{degree}",
        must="must be 1 with engine.type LlamaCpp",
        cel=(
            "self.engine.type != 'LlamaCpp' || !has(self.parallelism)"
            f" || !has(self.parallelism.{degree}) || self.parallelism.{degree} == 1"
        ),
        holds=lambda model: (
            model.engine.type != "LlamaCpp" or getattr(model.parallelism, degree, None) in {None, 1}
        ),
        remedy="remove spec.parallelism, or set spec.engine.type to VLLM",
        shown=Shown.NUMBER,
    )


MODEL_DEPLOYMENT = (
    *(_one_with_llamacpp(degree) for degree in ("tensor", "pipeline", "expert", "data")),
    Rule(
        field="objectives.tpotMilliseconds",
        must="must be absent unless model.task is Generate",
        cel="self.model.task == 'Generate' || !has(self.objectives.tpotMilliseconds)",
        holds=lambda model: model.model.task == "Generate" or model.objectives.tpot_milliseconds is None,
        remedy="remove it: embedding and reranking generate no tokens; ttftMilliseconds bounds the whole answer",
        shown=Shown.NUMBER,
    ),
)
