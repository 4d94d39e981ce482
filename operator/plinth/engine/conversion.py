"""Rewrites a GGUF model as safetensors, once, for vLLM, which does not read GGUF.

`converted` runs in the replica and looks after the cache; the work is done by a process of its own
(`python -m plinth.engine.conversion GGUF FOLDER`), so that its memory is given back and the replica answers on.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plinth.domain.fleet import ModelFormat
from plinth.engine.hub import describe
from plinth.engine.locking import only_one
from plinth.engine.seam import EngineError, LocalModel, Progress

_DTYPE = "bfloat16"
_MARK = "complete"


def converted(
    model: LocalModel, cache_dir: Path, progress: Progress, started: Callable[[subprocess.Popen[bytes]], None]
) -> LocalModel:
    """The model as a folder that vLLM reads, converted unless the cache has it. Blocks; `started` gets the process.

    Raises:
        EngineError: transformers cannot read this GGUF; its log lines say why.
    """
    stat = model.path.stat()
    # The file's size and time tell a replaced file from the one that was converted.
    folder = cache_dir / "converted" / f"{model.path.stem}-{stat.st_size}-{stat.st_mtime_ns}"
    with only_one(
        folder.with_suffix(".lock"), "waiting for another replica that converts this model", progress
    ):
        if not (folder / _MARK).exists():
            progress.saying("converting GGUF to safetensors for vLLM, once")
            _run(model.path, folder, started)
    files = tuple(sorted(path.name for path in folder.iterdir() if path.name != _MARK))
    found = describe(folder, files)
    return replace(model, path=folder, format=ModelFormat.SAFETENSORS, weights_bytes=found.weights_bytes)


def _run(source: Path, folder: Path, started: Callable[[subprocess.Popen[bytes]], None]) -> None:
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    process = subprocess.Popen(  # noqa: S603 - this very Python, no shell
        [sys.executable, "-m", "plinth.engine.conversion", str(source), str(fresh)], stdout=2
    )
    started(process)
    if process.wait() != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise EngineError(
            f"{source.name} could not be converted for vLLM; choose engine LlamaCpp, or safetensors"
        )
    (fresh / _MARK).touch()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)  # of a conversion that was cut short
    fresh.rename(folder)


def convert(source: Path, folder: Path) -> None:
    """Write the model at `source` into `folder`: weights, configuration, tokenizer."""
    import torch  # noqa: PLC0415 - only the process that converts loads torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415 - the same

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, _DTYPE),
    )
    # Left in, it would tell vLLM that the weights still are GGUF.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
