from plinth.engine.llamacpp_figures import read_figures

LOG = """\
0.01.284.689 I load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
0.01.289.400 I llama_context: n_ctx                 = 2048
0.01.289.401 I llama_context: n_ctx_seq             = 1024
0.01.289.569 I llama_context:        CPU  output buffer size =     0.38 MiB
0.01.289.721 I llama_kv_cache:        CPU KV buffer size =    45.00 MiB
0.01.440.402 I llama_kv_cache: size =   45.00 MiB (  1024 cells,  30 layers,  2/2 seqs), K (f16):   22.50 MiB
0.01.448.755 I sched_reserve:        CPU compute buffer size =    15.64 MiB
"""
MIB = 2**20


def test_the_buffers_of_a_load_become_figures() -> None:
    figures = read_figures(LOG)
    assert figures is not None
    memory = figures.memory
    assert (memory.weights_bytes, memory.kv_bytes, memory.kv_tokens) == (round(92.10 * MIB), 45 * MIB, 2048)
    assert memory.overhead_bytes == round(0.38 * MIB) + round(15.64 * MIB)
    assert figures.graph_bytes is None


def test_buffers_of_several_devices_add_up_and_recurrent_state_counts_as_kv() -> None:
    more = LOG + (
        "1.0 I load_tensors:   CPU_REPACK model buffer size =    10.00 MiB\n"
        "1.0 I llama_memory_recurrent:        CPU RS buffer size =     5.00 MiB\n"
    )
    figures = read_figures(more)
    assert figures is not None
    assert figures.memory.weights_bytes == round(92.10 * MIB) + 10 * MIB
    assert figures.memory.kv_bytes == 50 * MIB


def test_a_model_that_keeps_no_kv_holds_no_tokens() -> None:
    encoder = "".join(line for line in LOG.splitlines(keepends=True) if "kv_cache" not in line)
    figures = read_figures(encoder)
    assert figures is not None
    assert (figures.memory.kv_bytes, figures.memory.kv_tokens) == (0, 0)


def test_a_log_without_a_load_gives_no_figures() -> None:
    assert read_figures("") is None
    assert read_figures("0.00.004.795 E gguf_init_from_reader: failed to read magic") is None
