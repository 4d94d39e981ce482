"""Linear layers: what mixes tokens through a state of fixed size, and so keeps nothing for each token.

State shapes: vllm/model_executor/layers/mamba/mamba_utils.py, `MambaStateShapeCalculator`. The convolution's state is
at 16 bits; the other one too, unless the config states `mamba_ssm_dtype` or `mamba_ssm_cache_dtype`.
"""

from __future__ import annotations

from math import gcd

from plinth.domain.models.blocks import Attention, AttentionKind
from plinth.domain.models.keys import Keys
from plinth.domain.models.weights import WHOLE, Part, Weights
from plinth.domain.quantities import ceil_div

STATE_BYTES = 2


def read_mixer(word: str, keys: Keys) -> Attention:
    """The mixer of a layer that its config calls `linear_attention`, `mamba` or `conv`."""
    if word == "conv":
        return _short_convolution(keys)
    if word == "linear_attention":
        return _gated_delta_rule(keys)
    return _mamba2(keys) if _heads_of_mamba2(keys) else _mamba(keys)


def _gated_delta_rule(keys: Keys) -> Attention:
    """Qwen3-Next: queries, keys, values and a gate; two gates a head; a short convolution over the first three."""
    hidden = keys.number("hidden_size")
    heads = keys.number("linear_num_value_heads", 32)
    key_heads = keys.number("linear_num_key_heads", 16)
    key_dim = keys.number("linear_key_head_dim", 128)
    value_dim = keys.number("linear_value_head_dim", 128)
    kernel = keys.number("linear_conv_kernel_dim", 4)
    values = heads * value_dim
    mixed = 2 * key_heads * key_dim + values
    return _mixer(
        heads=gcd(heads, key_heads),
        matrices=hidden * (mixed + values + 2 * heads) + values * hidden,
        split_vectors=mixed * kernel + 2 * heads,
        whole_vectors=value_dim,
        state_bytes=mixed * (kernel - 1) * STATE_BYTES + heads * value_dim * key_dim * _state_width(keys),
    )


def _mamba2(keys: Keys) -> Attention:
    """Mamba 2 (arXiv 2405.21060) as in Nemotron-H and Granite 4."""
    hidden = keys.number("hidden_size")
    heads = _heads_of_mamba2(keys)
    inner = heads * (keys.number("mamba_head_dim") or keys.number("mamba_d_head", 64))
    state = keys.number("ssm_state_size") or keys.number("mamba_d_state", 128)
    groups = keys.number("n_groups") or keys.number("mamba_n_groups", 1)
    kernel = keys.number("conv_kernel") or keys.number("mamba_d_conv", 4)
    mixed = inner + 2 * groups * state
    return _mixer(
        heads=heads,
        matrices=hidden * (inner + mixed + heads) + inner * hidden,
        split_vectors=mixed * (kernel + 1) + 3 * heads + inner,
        whole_vectors=0,
        state_bytes=mixed * (kernel - 1) * STATE_BYTES + inner * state * _state_width(keys),
    )


def _mamba(keys: Keys) -> Attention:
    """Mamba (arXiv 2312.00752) as in Jamba, which norms the step, B and C."""
    hidden = keys.number("hidden_size")
    inner = keys.number("mamba_inner_size", keys.number("mamba_expand", 2) * hidden)
    state = keys.number("mamba_d_state", 16)
    kernel = keys.number("mamba_d_conv", 4)
    rank = keys.number("mamba_dt_rank", ceil_div(hidden, 16))
    return _mixer(
        heads=0,
        matrices=hidden * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * hidden,
        split_vectors=inner * (kernel + 1) + inner + inner * state + inner,
        whole_vectors=rank + 2 * state,
        state_bytes=inner * (kernel - 1) * STATE_BYTES + inner * state * _state_width(keys),
    )


def _short_convolution(keys: Keys) -> Attention:
    """LFM2: two gates around a short convolution."""
    hidden, kernel = keys.number("hidden_size"), keys.number("conv_L_cache", 3)
    return _mixer(
        heads=0,
        matrices=4 * hidden * hidden,
        split_vectors=hidden * kernel,
        whole_vectors=0,
        state_bytes=hidden * (kernel - 1) * STATE_BYTES,
    )


def _mixer(
    *, heads: int, matrices: int, split_vectors: int, whole_vectors: int, state_bytes: int
) -> Attention:
    return Attention(
        kind=AttentionKind.LINEAR,
        heads=heads,
        kv_heads=0,
        head_dim=0,
        value_dim=0,
        state_bytes_per_request=state_bytes,
        projections=(
            Weights(Part.ATTENTION, matrices),
            Weights(Part.VECTORS, split_vectors),
            Weights(Part.VECTORS, whole_vectors, WHOLE),
        ),
    )


def _heads_of_mamba2(keys: Keys) -> int:
    return keys.number("mamba_num_heads") or keys.number("mamba_n_heads")


def _state_width(keys: Keys) -> int:
    """Bytes of an element of the recurrent state."""
    stated = keys.word("mamba_ssm_dtype") or keys.word("mamba_ssm_cache_dtype")
    return 4 if stated == "float32" else STATE_BYTES
