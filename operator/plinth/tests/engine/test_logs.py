from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from plinth.engine.logs import LogMark, select_lines
from plinth.tests.engine.serving import stderr_in

VLLM = """\
\x1b[32mINFO\x1b[0m 11-22 00:44:12 [model.py:619] Resolved architecture: LlamaForCausalLM
(EngineCore pid=32027) INFO 11-22 00:44:56 [core.py:114] Initializing a V1 LLM engine with error handling
Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:01<00:00,  1.99s/it]
(EngineCore pid=32027) ERROR 11-22 00:45:23 [core.py:700] EngineCore failed to start.
(EngineCore pid=32027) ERROR 11-22 00:45:23 [core.py:700] Traceback (most recent call last):
(EngineCore pid=32027) ERROR 11-22 00:45:23 [core.py:700]   File "/site/vllm/v1/engine/core.py", line 691, in run
(EngineCore pid=32027) ERROR 11-22 00:45:23 [core.py:700]     engine_core = EngineCoreProc(*args, **kwargs)
(EngineCore pid=32027) ERROR 11-22 00:45:23 [core.py:700] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB.
(EngineCore pid=32027) Traceback (most recent call last):
(EngineCore pid=32027)   File "/site/vllm/v1/engine/core.py", line 691, in run
(EngineCore pid=32027) torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""
LLAMA_CPP = """\
0.00.004.700 I llama_model_loader: an error of 0.01 at most
0.00.004.795 E gguf_init_from_reader: failed to read magic
0.00.004.967 W srv          init: something harmless
0.00.005.105 E srv    load_model: failed to load model, '/m.gguf'
0.00.005.532 E srv          init: exiting due to model loading error
"""


def test_of_a_vllm_failure_the_root_cause_is_left() -> None:
    assert select_lines(VLLM) == ("torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB.",)


def test_of_a_llama_cpp_failure_the_errors_are_left_in_their_order() -> None:
    assert select_lines(LLAMA_CPP) == (
        "E gguf_init_from_reader: failed to read magic",
        "E srv    load_model: failed to load model, '/m.gguf'",
    )


def test_echoes_are_better_than_nothing() -> None:
    assert select_lines("RuntimeError: Engine core initialization failed. See root cause above.") == (
        "RuntimeError: Engine core initialization failed. See root cause above.",
    )


def test_without_any_cause_the_last_lines_are_shown() -> None:
    assert select_lines("".join(f"step {n}\n" for n in range(20))) == tuple(
        f"step {n}" for n in range(12, 20)
    )


@settings(deadline=None)
@given(st.text(max_size=5000))
def test_any_log_gives_at_most_eight_lines_and_two_kilobytes(text: str) -> None:
    lines = select_lines(text + "\nerror " + text)
    assert len(lines) <= 8
    assert sum(len(line.encode()) for line in lines) <= 2048
    assert not any("\x1b[" in line for line in lines)


def test_only_what_was_written_since_the_mark_counts(tmp_path: Path) -> None:
    file = tmp_path / "worker.err"
    file.write_text("error of an earlier replica\n")
    with stderr_in(file):
        mark = LogMark.here()
        with file.open("a") as log:
            log.write("error of this one\nLoading safetensors checkpoint shards:  50% Completed | 1/2\n")
        assert mark.meaningful_lines() == ("error of this one",)
        assert mark.last_percent("checkpoint shards:") == 50
        assert mark.last_percent("another bar:") is None
