"""LoRA adapters as PEFT saves them, written without torch."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from random import Random

HIDDEN, LAYERS = 576, 30
"""SmolLM2-135M's."""


def write_adapter(folder: Path, *, rank: int = 8, layers: int = LAYERS, seed: int = 7) -> Path:
    """An adapter of SmolLM2's query projections, of random weights large enough to change what it says."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    chance = Random(seed)  # noqa: S311 - no secret
    tensors: dict[str, tuple[list[int], array[float]]] = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        for part, shape in (("A", [rank, HIDDEN]), ("B", [HIDDEN, rank])):
            values = array("f", (chance.gauss(0, 0.1) for _ in range(rank * HIDDEN)))
            tensors[f"{name}.lora_{part}.weight"] = shape, values
    _write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def _write_safetensors(path: Path, tensors: dict[str, tuple[list[int], array[float]]]) -> None:
    header, at = {}, 0
    for name, (shape, values) in tensors.items():
        end = at + len(values) * values.itemsize
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors.values():
            file.write(values.tobytes())
