"""What a checkpoint's headers say of its tensors, which is more exact than any formula."""

from __future__ import annotations

from typing import NamedTuple


class TensorInfo(NamedTuple):
    """One tensor as its file's header describes it."""

    dtype: str
    """As safetensors (`BF16`, `F8_E4M3`, `I32`) or GGUF (`Q4_K`) names it."""
    shape: tuple[int, ...]
