"""Vision towers and their projectors, counted from `vision_config`. A tower that is not listed counts as CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from plinth.domain.models.keys import Keys


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One transformer over patches of an image."""

    bias: bool = True
    """In every matrix of a layer."""
    gated: bool = False
    norm_bias: bool = True
    patch_bias: bool = False
    positions: bool = True
    """A learned position for each patch."""
    class_token: bool = False
    outer_norms: int = 0
    """Norms before and after the layers."""
    projector: Callable[[Keys, int], int]
    """Parameters of what leads into a language part of this width."""
    unsaid: Mapping[str, object]


def count_vision(config: Mapping[str, object], hidden: int) -> int:
    """Parameters of a model's vision tower and projector into a language part `hidden` wide; 0 without one."""
    found = config.get("vision_config")
    if not isinstance(found, Mapping):
        return 0
    outer = {key: config[key] for key in ("spatial_merge_size",) if key in config}
    name = str(found.get("model_type") or config.get("model_type"))
    tower = TOWERS.get(name, TOWERS.get(str(config.get("model_type")), CLIP))
    keys = Keys({**outer, **found}, tower.unsaid)
    width = keys.number("embed_dim") or keys.number("hidden_size")
    return _layers(keys, tower, width) + _ends(keys, tower, width) + tower.projector(keys, hidden)


def _layers(keys: Keys, tower: Tower, width: int) -> int:
    count = keys.number("depth") or keys.number("num_hidden_layers")
    inner = keys.number("intermediate_size", keys.number("mlp_ratio", 4) * width)
    into = 2 if tower.gated else 1
    matrices = 4 * width * width + (into + 1) * width * inner
    biases = 4 * width + into * inner + width if tower.bias else 0
    return count * (matrices + biases + 2 * _norm(tower, width))


def _ends(keys: Keys, tower: Tower, width: int) -> int:
    """Patches, positions and the norms outside the layers."""
    patch = keys.number("patch_size", 14)
    channels = keys.number("num_channels", keys.number("in_channels", 3))
    total = channels * keys.number("temporal_patch_size", 1) * patch * patch * width
    total += width if tower.patch_bias else 0
    if tower.positions:
        patches = (keys.number("image_size") // patch) ** 2 + (1 if tower.class_token else 0)
        total += keys.number("num_position_embeddings", patches) * width
    total += width if tower.class_token else 0
    return total + tower.outer_norms * _norm(tower, width)


def _norm(tower: Tower, width: int) -> int:
    return 2 * width if tower.norm_bias else width


def _merger(keys: Keys, hidden: int) -> int:
    """Qwen-VL's: neighbouring patches joined, two matrices with biases."""
    joined = _joined(keys)
    out = keys.number("out_hidden_size", hidden)
    return joined * joined + joined + joined * out + out


def _qwen2_merger(keys: Keys, hidden: int) -> int:
    return 2 * keys.number("embed_dim") + _merger(keys, hidden)


def _qwen2_5_merger(keys: Keys, hidden: int) -> int:
    return keys.number("hidden_size") + _merger(keys, hidden)


def _qwen3_mergers(keys: Keys, hidden: int) -> int:
    """One at the end and one for each layer that is fed in deeper, whose norm is behind the joining."""
    deeper = len(keys.numbers("deepstack_visual_indexes"))
    one = _merger(keys, hidden)
    return 2 * keys.number("hidden_size") + one + deeper * (2 * _joined(keys) + one)


def _joined(keys: Keys) -> int:
    width = keys.number("embed_dim") or keys.number("hidden_size")
    return keys.number("spatial_merge_size", 2) ** 2 * width


def _gemma3_projector(keys: Keys, hidden: int) -> int:
    width = keys.number("hidden_size")
    return width * hidden + width


def _mistral3_projector(keys: Keys, hidden: int) -> int:
    width = keys.number("hidden_size")
    return width + _joined(keys) * width + width * hidden + hidden * hidden


def _llava_projector(keys: Keys, hidden: int) -> int:
    return (keys.number("hidden_size") + 1 + hidden + 1) * hidden


def _llama4_projector(keys: Keys, hidden: int) -> int:
    """Two matrices behind the pixel shuffle, one into the language part."""
    inside, outside = keys.number("projector_input_dim"), keys.number("projector_output_dim")
    return keys.number("intermediate_size") * inside + outside * outside + outside * hidden


QWEN_PATCHES = {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2}
CLIP = Tower(
    class_token=True,
    outer_norms=2,
    projector=_llava_projector,
    unsaid={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "image_size": 336,
    },
)
QWEN3_VL = Tower(
    patch_bias=True,
    projector=_qwen3_mergers,
    unsaid={
        **QWEN_PATCHES,
        "patch_size": 16,
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": (8, 16, 24),
    },
)
QWEN3_5 = replace(QWEN3_VL, unsaid={**QWEN3_VL.unsaid, "deepstack_visual_indexes": ()})
"""As Qwen3-VL's, and nothing is fed in deeper."""
TOWERS: Mapping[str, Tower] = {
    "qwen2_vl": Tower(
        positions=False, projector=_qwen2_merger, unsaid={**QWEN_PATCHES, "depth": 32, "embed_dim": 1280}
    ),
    "qwen2_5_vl": Tower(
        gated=True,
        norm_bias=False,
        positions=False,
        projector=_qwen2_5_merger,
        unsaid={**QWEN_PATCHES, "depth": 32, "hidden_size": 1280, "intermediate_size": 3420},
    ),
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5,
    "siglip_vision_model": Tower(
        patch_bias=True, outer_norms=1, projector=_gemma3_projector, unsaid={"image_size": 224}
    ),
    "pixtral": Tower(
        bias=False,
        gated=True,
        norm_bias=False,
        positions=False,
        outer_norms=1,
        projector=_mistral3_projector,
        unsaid={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 16},
    ),
    "llama4_vision_model": Tower(
        class_token=True,
        outer_norms=2,
        projector=_llama4_projector,
        unsaid={
            "hidden_size": 1408,
            "intermediate_size": 5632,
            "num_hidden_layers": 34,
            "patch_size": 14,
            "image_size": 336,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
        },
    ),
}
