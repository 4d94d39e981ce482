"""What `planner_measure.py` measures: cases as data, and the model folder that an engine is given for one.

A case is a public model's config.json, an engine's arguments, and the loads to put on it. Weights are random and the
tokenizer is made up, so nothing is fetched; the shapes are the public ones, vocabulary included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import yaml
from synthetic_model import CHAT_TEMPLATE, END_OF_TEXT, make_tokenizer

from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.reading import read_model

FOLDER = Path(__file__).with_name("planner_cases")
PIPELINE, DATA = "pipeline-parallel-size", "data-parallel-size"
"""Engine arguments."""
_QUANTISED_SHARE = 0.8
_USERS_A_PROCESS = 64
"""How many users one process of the load client serves without becoming what is measured."""


class Use(StrEnum):
    """What a case's figures are for."""

    CALIBRATION = "calibration"
    """The planner's constants may be set by them."""
    HELD_OUT = "held-out"
    """They only judge."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A closed loop: so many users, who ask for so many answers together."""

    users: int
    requests: int
    input_tokens: int
    output_tokens: int
    seconds: float
    """What it is expected to take."""

    @property
    def processes(self) -> int:
        """How many processes the load client spreads its users over."""
        return -(-self.users // _USERS_A_PROCESS)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One engine, and the loads it is given in order."""

    name: str
    model: str
    """The name of a file in `planner_cases/models/`, without its ending."""
    config: Mapping[str, object]
    """The model's config.json."""
    use: Use
    loads: tuple[Level, ...]
    tensor: int = 1
    context_tokens: int
    utilization_percent: int
    start_seconds: float
    """What the engine's start is expected to take."""
    args: Mapping[str, str] = field(default_factory=dict)
    """Engine arguments by vLLM's names."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def accelerators(self) -> int:
        """How many one engine takes: of each stage of a pipeline and each copy as many as tensor ranks."""
        stages, copies = (int(self.args.get(name, 1)) for name in (PIPELINE, DATA))
        return self.tensor * stages * copies

    @property
    def least_seconds(self) -> float:
        """The time without which a start is not worth it: to be ready, and for the first loads."""
        return self.start_seconds + sum(level.seconds for level in self.loads[:2])


def read_cases(path: Path) -> list[Case]:
    """The cases of a file, in its order.

    Raises:
        ValueError: two cases have the same name.
    """
    content = yaml.safe_load(path.read_text())
    defaults = content.get("defaults", {})
    cases = [_read_case(each, defaults, path.parent / "models") for each in content["cases"]]
    if len({case.name for case in cases}) < len(cases):
        raise ValueError(f"{path}: the names of its cases must differ")
    return cases


def _read_case(given: Mapping[str, object], defaults: Mapping[str, object], models: Path) -> Case:
    fields = {**defaults, **given}
    for name in ("args", "environment"):
        fields[name] = {**_mapping(defaults.get(name)), **_mapping(given.get(name))}
    loads = fields.pop("loads")
    if not isinstance(loads, list):
        raise TypeError(f"{given.get('name')}: loads must be a list")
    return Case(
        **{
            **fields,
            "use": Use(str(fields["use"])),
            "loads": tuple(Level(**level) for level in loads),
            "config": json.loads((models / f"{fields['model']}.json").read_text()),
        }
    )


def _mapping(value: object) -> Mapping[str, str]:
    return value if isinstance(value, Mapping) else {}


def write_model_folder(folder: Path, case: Case) -> Path:
    """Write config.json and a tokenizer of the config's vocabulary; no weights, the engine makes them up."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "model_max_length": case.config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    files = {
        "config.json": case.config,
        "tokenizer.json": make_tokenizer(vocabulary_of(case)),
        "tokenizer_config.json": tokenizer_config,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False))
    return folder


def vocabulary_of(case: Case) -> int:
    """How many token ids there are; prompts are made of them."""
    return int(str(case.config["vocab_size"]))


def is_unpacked(case: Case, weights_bytes: float) -> bool:
    """Whether a quantised case's weights take, on all accelerators together, about what they would at full width.

    vLLM does not say so when it finds no quantised layer: it loads every one in 16 bits, and measures another model.
    """
    if "quantization_config" not in case.config:
        return False
    config = {key: value for key, value in case.config.items() if key != "quantization_config"}
    full = read_model(config, format=ModelFormat.SAFETENSORS)
    if isinstance(full, ArtifactRefusal):
        return False
    return weights_bytes > _QUANTISED_SHARE * full.weights_bytes
