"""What is planned for LoRA adapters is what the real vLLM allocates for them, for small models.

Attention by a latent does not run on its CPU build, and experts have no adapters there: both are counted by hand in the
tests of sizing.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from plinth.domain.sizing.adapters import adapter_bytes
from plinth.domain.sizing.request import AdapterRoom
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import read

VLLM_PYTHON = Path(__file__).parents[4] / ".venv-vllm" / "bin" / "python"
SECONDS = 300
ROOM = AdapterRoom(slots=2, rank=16)
PLAIN: dict[str, object] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, dict[str, object]] = {
    "grouped queries": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "tied": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True},
    "wide heads": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 64},
    "no vocabulary": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
}
ALLOCATE = """
import json, sys, tempfile
from pathlib import Path
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.model_manager import LoRAModelManager
from vllm.model_executor.model_loader import get_model

def allocated(manager):
    found = {}
    for module in [*manager.model.modules()]:
        for name in ("lora_a_stacked", "lora_b_stacked"):
            held = getattr(module, name, ())
            for tensor in held if isinstance(held, tuple) else (held,):
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())

configs, slots, rank = json.loads(sys.argv[1])
found = {}
for kind, entries in configs.items():
    folder = Path(tempfile.mkdtemp(dir=sys.argv[2]))
    (folder / "config.json").write_text(json.dumps(entries))
    config = EngineArgs(
        model=str(folder), skip_tokenizer_init=True, load_format="dummy", enforce_eager=True, dtype="bfloat16",
        max_model_len=128, enable_lora=True, max_loras=slots, max_lora_rank=rank,
    ).create_engine_config()
    with set_current_vllm_config(config):
        if not found:
            init_distributed_environment(1, 0, f"file://{folder}/meeting", 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
        model = get_model(vllm_config=config)
        words = config.model_config.get_vocab_size()
        cpu = torch.device("cpu")
        found[kind] = allocated(LoRAModelManager(model, 8, 128, words, config.lora_config, cpu, config))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def allocated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Bytes of all buffers, by the kind of model."""
    asked = {kind: PLAIN | entries for kind, entries in CONFIGS.items()}
    done = subprocess.run(
        [
            VLLM_PYTHON,
            "-c",
            ALLOCATE,
            json.dumps([asked, ROOM.slots, ROOM.rank]),
            tmp_path_factory.mktemp("models"),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.vllm
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_planned_is_what_vllm_allocates(allocated: dict[str, int], kind: str) -> None:
    planned = adapter_bytes(read(PLAIN | CONFIGS[kind]), Shape(), ROOM)
    if kind == "no vocabulary":
        vocabulary = 2 * (1000 + 256)
        planned -= vocabulary * ROOM.rank * ROOM.slots * 2
    assert planned == allocated[kind]
