"""A model folder with a real architecture and no weights: what engines serve with `load-format: dummy`.

For machines that can fetch nothing. `config.json` has the real shape, the tokenizer is a byte-level one whose words
are made up (only detokenisation costs anything when prompts are token ids), and `model.safetensors` is a sparse file
of the size that the weights would have, since the planner reads sizes and the engine reads nothing of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

BYTES_PER_WEIGHT = 2
END_OF_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@dataclass(frozen=True, kw_only=True)
class Qwen2Shape:
    """The numbers that make a Qwen2 model's size and speed."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 49152
    context_tokens: int = 32768

    @property
    def weights(self) -> int:
        """Number of weights: attention with biases on q, k and v, gated MLP, norms, and untied embeddings.

        >>> QWEN2_5_32B.weights * BYTES_PER_WEIGHT / 2**30  # doctest: +ELLIPSIS
        59.064...

        (vLLM measured 59.07 GiB.)
        """
        head = self.hidden // self.heads
        kv = self.kv_heads * head
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv + self.hidden + 2 * kv
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + 2 * self.vocabulary * self.hidden

    def to_config(self) -> dict[str, object]:
        """The shape as `config.json`."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context_tokens,
            "rope_theta": 1000000.0,
            "rms_norm_eps": 1e-06,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "use_cache": True,
            "use_sliding_window": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }


QWEN2_5_32B = Qwen2Shape(layers=64, hidden=5120, intermediate=27648, heads=40, kv_heads=8)
TINY = Qwen2Shape(layers=2, hidden=256, intermediate=512, heads=4, kv_heads=2, context_tokens=2048)


def write_model(folder: Path, shape: Qwen2Shape) -> Path:
    """Write the model's files into `folder`, which is made; a few megabytes on disk, whatever the shape."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "model_max_length": shape.context_tokens,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    files = {
        "config.json": shape.to_config(),
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 0},
        "tokenizer.json": make_tokenizer(shape.vocabulary),
        "tokenizer_config.json": tokenizer_config,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False))
    _write_sparse_weights(folder / "model.safetensors", shape.weights * BYTES_PER_WEIGHT)
    return folder


def make_tokenizer(vocabulary: int) -> dict[str, object]:
    """A byte-level BPE tokenizer without merges: text becomes bytes, and every further id is a word of its own."""
    words = [END_OF_TEXT, *_byte_alphabet()]
    words += [f"\u0120w{index}" for index in range(vocabulary - len(words))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end_of_text = {"id": 0, "content": END_OF_TEXT, "special": True, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end_of_text | {"single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: index for index, word in enumerate(words)},
            "merges": [],
        },
    }


def _byte_alphabet() -> list[str]:
    """The printable characters that byte-level tokenizers write the 256 bytes as: themselves, or from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _write_sparse_weights(path: Path, size: int) -> None:
    """A valid file of one tensor of `size` bytes that takes no room on disk."""
    header = json.dumps({"filler": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
