"""A causal model that is asked to embed or to rank: engines load no head for it, and multiply nothing with it."""

import pytest

from plinth.api.v1alpha1 import Task
from plinth.domain.fleet import Engine, ModelFormat
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.work import step_work
from plinth.domain.workload import as_loaded
from plinth.tests.domain.models.public_models import read_public


@pytest.mark.parametrize("task", [Task.EMBED, Task.RERANK])
def test_no_head_is_loaded_or_multiplied_with(task: Task) -> None:
    model = read_public("Qwen/Qwen3-8B")
    loaded = as_loaded(model, ModelFormat.SAFETENSORS, task, Engine.VLLM)
    assert model.weights_bytes - loaded.weights_bytes == 151_936 * 4096 * 2
    assert step_work(model, Shape(), 2).head.flops_per_token == 2 * 151_936 * 4096
    assert step_work(loaded, Shape(), 2).head.flops_per_token == 0
    assert step_work(loaded, Shape(), 2).head.weights_bytes == 0


def test_a_tied_embedding_stays_to_be_looked_up() -> None:
    model = read_public("Qwen/Qwen3-0.6B")
    loaded = as_loaded(model, ModelFormat.SAFETENSORS, Task.EMBED, Engine.VLLM)
    assert loaded.weights_bytes == model.weights_bytes
    assert step_work(loaded, Shape(), 2).head.flops_per_token == 0


def test_the_last_stage_holds_a_copy_of_the_embedding_only_where_the_config_ties_it() -> None:
    """vllm/model_executor/models/qwen2.py: `config.tie_word_embeddings and get_pp_group().is_last_rank`."""
    layers = {"num_hidden_layers": 4, "mlp_only_layers": [0, 1]}  # so that the last stage is the heaviest
    tied, untied = (
        as_loaded(
            read_public("Qwen/Qwen3-30B-A3B", tie_word_embeddings=is_tied, **layers),
            ModelFormat.SAFETENSORS,
            Task.EMBED,
            Engine.VLLM,
        ).weights_bytes_per_rank(tensor=1, pipeline=2, expert=1)
        for is_tied in (True, False)
    )
    assert tied - untied == 151_936 * 2048 * 2
