"""Kinds of accelerator for which vLLM has no kernels of what a model needs, whatever the shape.

As vLLM 0.25.1 checks it: the weights' method in `VllmConfig._get_quantization_config` (each method's
`get_min_capability`), the width of activations in `ModelConfig` (`_FLOAT16_NOT_SUPPORTED_MODELS`).
"""

from __future__ import annotations

from plinth.domain.accelerators.catalogue import Accelerator
from plinth.domain.models.architecture import ModelArchitecture

_LEAST_CAPABILITY = {"mxfp4": 80, "experts_int8": 80, "fbgemm_fp8": 80, "fp_quant": 100}
"""Of methods that 7.5, the least of the catalogue, is too little for."""
BFLOAT16_CAPABILITY = 80
NOT_IN_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4", "plamo2"})
"""Models that are not stable in float16; without bfloat16 vLLM computes them in float32, of twice the size."""


def refuse_on_kind(model: ModelArchitecture, accelerator: Accelerator) -> str | None:
    """Why the model is not for this kind, or None. Of a kind that is not CUDA nothing is known to stand against it."""
    has = accelerator.compute_capability
    if not has:
        return None
    method = model.quantization.method if model.quantization else ""
    needs = _LEAST_CAPABILITY.get(method, 0)
    if has < needs:
        return (
            f"vLLM has kernels for {method} weights from compute capability {needs / 10} on, {accelerator.name} has"
            f" {has / 10}; take another spec.pool"
        )
    if model.name in NOT_IN_FLOAT16 and has < BFLOAT16_CAPABILITY:
        return f"{accelerator.name} has no bfloat16, and {model.name} is not stable in float16; take another spec.pool"
    return None
