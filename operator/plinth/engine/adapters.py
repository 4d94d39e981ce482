"""LoRA adapters as files on this machine: what is read of one before the engine is told to load it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from plinth.domain.fleet import ModelFormat
from plinth.engine.seam import LocalAdapter, LocalModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HIGHEST_RANK = 512
"""vLLM's (config/lora.py, 0.25.1)."""


class _Config(msgspec.Struct):
    """The part of PEFT's configuration that is read here."""

    r: int


def read_adapter(found: LocalModel) -> LocalAdapter:
    """The adapter in a folder that its source led to.

    Raises:
        ValueError: the folder holds no adapter that vLLM loads, and what would work.
    """
    if found.format is not ModelFormat.SAFETENSORS:
        raise ValueError("is no adapter in PEFT's format; convert it, or name a folder with safetensors")
    for name in (CONFIG, WEIGHTS):
        # Without the second vLLM would look for pickled weights, which may run code.
        if not (found.path / name).is_file():
            raise ValueError(f"has no {name} at its top; name the folder that PEFT saved the adapter to")
    rank = _read_rank(found.path / CONFIG)
    if not 0 < rank <= HIGHEST_RANK:
        raise ValueError(f"has rank {rank}; vLLM loads ranks from 1 to {HIGHEST_RANK}")
    return LocalAdapter(path=found.path, rank=rank)


def _read_rank(config: Path) -> int:
    try:
        return msgspec.json.decode(config.read_bytes(), type=_Config).r
    except msgspec.MsgspecError as error:
        raise ValueError(f"{CONFIG} cannot be read: {error}") from None
