"""vLLM's arguments that change what a replica holds or how fast it is, read into the words of sizing.

`spec.engine.args` go to vLLM as they are. What the planner does not read there it would plan wrongly, so of these
arguments it refuses each value that vLLM does not take, and each that it takes and nobody here can count. Asked at
admission, and again by the planner. Sources are vLLM 0.25.1's: config/cache.py (`CacheDType`), config/model.py
(`ModelDType`, `_verify_quantization`), config/quantization.py and model_executor/layers/quantization.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from plinth.domain.accelerators.catalogue import Accelerator
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.quantization import ALWAYS_IN_FULL, Quantization
from plinth.domain.models.weights import Part
from plinth.domain.sizing.engine_defaults import adapter_rank, adapters_at_once, asked_sequences
from plinth.domain.sizing.kernels import BFLOAT16_CAPABILITY, NOT_IN_FLOAT16
from plinth.domain.sizing.request import AdapterRoom, EngineOptions

FIELD = "spec.engine.args"
BATCHED_TOKENS, SEQUENCES = "max-num-batched-tokens", "max-num-seqs"
QUANTIZATION, DTYPE, KV_DTYPE = "quantization", "dtype", "kv-cache-dtype"
ADAPTERS = "max-loras"
_EAGER, _SHARDED, _TOWER = "enforce-eager", "fully-sharded-loras", "enable-tower-connector-lora"
_OFF = frozenset({"false", "0", "off"})
_NEGATED = ("no-enforce-eager", "no-fully-sharded-loras", "no-enable-expert-parallel")
"""vLLM has every switch twice. One name is enough, and Plinth sets that of the experts."""

_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_SHORT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([kKmM])")
_MULTIPLES = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}

_DTYPE_BYTES: Mapping[str, int] = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}
_KV_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("float16", "bfloat16"), 2),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2"), 1),
}
_AUTO = "auto"

_OUTSIDE_LAYERS = ALWAYS_IN_FULL | {Part.EMBEDDING, Part.HEAD}
_ALL_BUT_EXPERTS = frozenset(Part) - {Part.EXPERTS}


def _online(method: str, bits_hundredths: int, group: int = 0, *, experts_only: bool = False) -> Quantization:
    return Quantization(
        method=method,
        weight_bits_hundredths=bits_hundredths,
        group_size=group,
        kept_in_full=_ALL_BUT_EXPERTS if experts_only else _OUTSIDE_LAYERS,
    )


_WHILE_LOADING: Mapping[str, Quantization] = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_channel"), _online("fp8", 800)),
    "fp8_per_block": _online("fp8", 800, 128),
    "mxfp8": _online("modelopt", 825, 32),
    **dict.fromkeys(
        ("experts_int8", "int8_per_channel_weight_only"), _online("experts_int8", 800, experts_only=True)
    ),
    "bitsandbytes": _online("bitsandbytes", 413, 64),
}
"""What vLLM makes of full weights as it loads them: linear layers and experts, or experts alone; never embedding and
head. mxfp8 has an 8-bit scale for 32 weights; bitsandbytes is NF4 with its scales quantised too
(model_loader/bitsandbytes_loader.py, `quantize_4bit`)."""

_ALSO_KNOWN_AS: Mapping[str, frozenset[str]] = {
    "gptq": frozenset({"gptq", "auto_gptq", "gptq_marlin", "moe_wna16"}),
    "awq": frozenset({"awq", "auto_awq", "awq_marlin", "moe_wna16"}),
}
"""Names of other kernels for the weights of a method (each one's `override_quantization_method`)."""


def refuse_arguments(args: Mapping[str, str]) -> str | None:
    """The first of these arguments that cannot be planned with, whatever the model; None where all can."""
    return next(_faults(args), None)


def _faults(args: Mapping[str, str]) -> Iterator[str]:
    for name in _NEGATED:
        if name in args:
            positive = name.removeprefix("no-")
            instead = (
                f'set {positive} to "false"'
                if positive in {_EAGER, _SHARDED}
                else "set spec.parallelism.expert"
            )
            yield f"{FIELD}.{name}: must be left out; {instead}"
    for name, most in ((BATCHED_TOKENS, "8192 or 8k"), (SEQUENCES, "256"), (ADAPTERS, "4")):
        if name in args and _count(args, name) is None:
            yield f"{FIELD}.{name}: must be a number above 0, got {args[name]!r}; write one such as {most}"
    if _is_on(args, _TOWER):
        yield (
            f"{FIELD}.{_TOWER}: adapters of a vision tower cannot be planned with; leave it out, and adapt the text"
            " model alone"
        )
    tokens, sequences = _count(args, BATCHED_TOKENS), _count(args, SEQUENCES)
    if tokens and sequences and tokens < sequences:
        yield (
            f"{FIELD}.{SEQUENCES}: {sequences} requests get a token each in a step, and {BATCHED_TOKENS} lets it have"
            f" {tokens}; raise that, or lower this"
        )
    for name, known in ((DTYPE, _DTYPE_BYTES), (KV_DTYPE, _KV_BYTES)):
        if args.get(name, _AUTO) not in {_AUTO, *known}:
            yield f"{FIELD}.{name}: {args[name]!r} cannot be planned with; {_or([_AUTO, *known])} can"


def refuse_for(model: ModelArchitecture, args: Mapping[str, str]) -> str | None:
    """Why vLLM would not load this model's weights as asked, or nobody can say what they then take; or None."""
    asked = args.get(QUANTIZATION)
    if asked is None:
        return None
    if model.quantization is not None:
        stored = model.quantization.method
        if asked in _ALSO_KNOWN_AS.get(stored, frozenset({stored})):
            return None
        return f"{FIELD}.{QUANTIZATION}: the model's weights are stored as {stored} and not as {asked}; leave it out"
    made = _WHILE_LOADING.get(asked)
    if made is None:
        able = _or([name for name in _WHILE_LOADING if model.experts or not _is_for_experts(name)])
        return f"{FIELD}.{QUANTIZATION}: the model's weights are not stored as {asked}; {able} is made while they are loaded"
    if _is_for_experts(asked) and not model.experts:
        return (
            f"{FIELD}.{QUANTIZATION}: {asked} is for experts, and the model has none; fp8 is for all weights"
        )
    return None


def _is_for_experts(method: str) -> bool:
    return _WHILE_LOADING[method].kept_in_full is _ALL_BUT_EXPERTS


def refuse_dtype_on(
    accelerator: Accelerator, model: ModelArchitecture, args: Mapping[str, str]
) -> str | None:
    """Why vLLM would not compute the model so wide on this kind, or None (config/model.py, `_check_valid_dtype`)."""
    asked, has = args.get(DTYPE, _AUTO), accelerator.compute_capability
    if asked == "bfloat16" and 0 < has < BFLOAT16_CAPABILITY:
        return f"{FIELD}.{DTYPE}: {accelerator.name} has no bfloat16; take float16, or another spec.pool"
    if asked in {"half", "float16"} and model.name in NOT_IN_FLOAT16:
        return f"{FIELD}.{DTYPE}: {model.name} is not stable in float16; take bfloat16 or float32"
    return None


def as_asked(model: ModelArchitecture, args: Mapping[str, str]) -> ModelArchitecture:
    """The model with the weights that vLLM makes of it: of another width, or quantised while they are loaded."""
    width = _DTYPE_BYTES.get(args.get(DTYPE, _AUTO), model.dtype_bytes)
    if width != model.dtype_bytes:
        model = replace(model, dtype_bytes=width)
    made = _WHILE_LOADING.get(args.get(QUANTIZATION, ""))
    if made is None or model.quantization is not None:
        return model
    return replace(model, quantization=made)


def changes_weights(args: Mapping[str, str]) -> bool:
    """Whether the weights in memory may be others than in the files."""
    return QUANTIZATION in args or args.get(DTYPE, _AUTO) != _AUTO


def read_options(args: Mapping[str, str], *, concurrency: int, dtype_bytes: int) -> EngineOptions:
    """What the arguments change of a step and of the KV cache; by itself that is as wide as the model's dtype."""
    return EngineOptions(
        batched_tokens=_count(args, BATCHED_TOKENS),
        sequences=_count(args, SEQUENCES) or asked_sequences(concurrency),
        kv_element_bytes=_KV_BYTES.get(args.get(KV_DTYPE, _AUTO), dtype_bytes),
        graphs=not _is_on(args, _EAGER),
    )


def read_adapter_room(args: Mapping[str, str], ranks: Collection[int]) -> AdapterRoom | None:
    """The room for adapters of these ranks; None where there are none."""
    if not ranks:
        return None
    return AdapterRoom(
        slots=_count(args, ADAPTERS) or adapters_at_once(len(ranks)),
        rank=adapter_rank(ranks),
        sharded=_is_on(args, _SHARDED),
    )


def _is_on(args: Mapping[str, str], switch: str) -> bool:
    return args.get(switch, "false").strip().lower() not in _OFF


def _count(args: Mapping[str, str], name: str) -> int | None:
    """A number as vLLM reads it: of tokens also `8k` and `8K` (utils/argparse_utils.py, `human_readable_int`)."""
    if name not in args:
        return None
    text = args[name].strip()
    if _COUNT.fullmatch(text):
        return int(text)
    short = _SHORT.fullmatch(text) if name == BATCHED_TOKENS else None
    if short is None:
        return None
    number, unit = short.groups()
    if unit.isupper() and "." in number:
        return None
    return int(float(number) * _MULTIPLES[unit]) or None


def _or(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
