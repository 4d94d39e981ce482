"""The tables of sines and cosines that an engine keeps for rotary positions: of models made for long contexts they count.

vLLM makes one for each kind of rotation, over all positions that the config states and on every rank
(`get_rope` in model_executor/layers/rotary_embedding). Gemma 3 12B: 131,072 positions stretched by 8, heads of 256,
16 bits: 512 MiB, and 64 MiB for its sliding layers.
"""

from __future__ import annotations

from collections.abc import Mapping

from plinth.domain.models.keys import Keys

_STRETCHED = frozenset({"linear", "dynamic", "ntk"})
"""Kinds whose positions are those stated, times the factor."""
_FROM_ORIGINAL = frozenset({"yarn", "deepseek_yarn"})
"""Kinds that count from the positions the model was first made for."""
_LATENT_BYTES = 4
"""Tables for a latent stay at 32 bits (deepseek_scaling_rope.py)."""
_BYTES = 2
_MOST_POSITIONS = 1 << 27


def rotary_bytes(keys: Keys, head_dim: int) -> int:
    """What all tables of a model take of each accelerator; `head_dim` elements a head."""
    positions = keys.number("max_position_embeddings")
    if not positions or not (keys.states("rope_theta") or keys.states("rope_parameters")):
        return 0
    scaling = keys.section("rope_scaling") or keys.section("rope_parameters")
    latent = keys.number("qk_rope_head_dim")
    width = latent or int(head_dim * _factor(keys.section("rope_parameters"), "partial_rotary_factor"))
    rows = _rows(scaling, positions)
    if keys.states("rope_local_base_freq"):
        rows += positions
    return min(rows, _MOST_POSITIONS) * width * (_LATENT_BYTES if latent else _BYTES)


def _rows(scaling: Mapping[str, object], positions: int) -> int:
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in _STRETCHED:
        return int(positions * _factor(scaling, "factor"))
    original = scaling.get("original_max_position_embeddings")
    if kind in _FROM_ORIGINAL and isinstance(original, int):
        return int(original * _factor(scaling, "factor"))
    return positions


def _factor(section: Mapping[str, object], name: str) -> float:
    value = section.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value <= _MOST_POSITIONS else 1.0
