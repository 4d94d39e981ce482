import pytest

from plinth.api.v1alpha1 import Task
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read, read_public


@pytest.mark.parametrize("name", PUBLIC_MODELS)
def test_every_parameter_is_counted(name: str) -> None:
    assert read(PUBLIC_MODELS[name].config).parameters == PUBLIC_MODELS[name].parameters


@pytest.mark.parametrize("name", PUBLIC_MODELS)
def test_the_kv_cache_of_one_more_token_is_exact(name: str) -> None:
    model = read(PUBLIC_MODELS[name].config)
    assert model.kv_bytes_per_token_per_rank(tensor=1, pipeline=1, element_bytes=2) == PUBLIC_MODELS[name].kv


def test_most_of_the_figures_are_those_of_the_models_pages() -> None:
    assert sum(1 for each in PUBLIC_MODELS.values() if each.stored) >= 50


@pytest.mark.parametrize(
    ("name", "published", "within"),
    [
        # https://arxiv.org/abs/2401.04088, section 1, and https://mistral.ai/news/mixtral-8x22b
        ("mistralai/Mixtral-8x7B-v0.1", 12.9e9, 0.01),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 39e9, 0.01),
        # https://arxiv.org/abs/2412.19437, abstract: 37B without the embedding, which is looked up
        ("deepseek-ai/DeepSeek-V3", 37e9 + 129280 * 7168, 0.01),
        ("Qwen/Qwen3-30B-A3B", 3.3e9, 0.02),
        ("Qwen/Qwen3-235B-A22B", 22e9, 0.01),
        # https://arxiv.org/abs/2508.10925, table 1: 3.61B and 5.13B without the embedding
        ("openai/gpt-oss-20b", 3.61e9 + 201088 * 2880, 0.001),
        ("openai/gpt-oss-120b", 5.13e9 + 201088 * 2880, 0.001),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 17e9, 0.02),
    ],
)
def test_a_token_passes_through_as_many_weights_as_published(
    name: str, published: float, within: float
) -> None:
    assert read_public(name).active_parameters == pytest.approx(published, rel=within)


def test_the_task_is_guessed_from_the_class_that_was_saved() -> None:
    assert read_public("BAAI/bge-m3").task is Task.EMBED
    assert read_public("BAAI/bge-reranker-v2-m3").task is Task.RERANK
    assert read_public("Qwen/Qwen3-8B").task is Task.GENERATE
    assert read_public("Qwen/Qwen3-8B", architectures=["Qwen3Model"]).task is Task.EMBED


def test_a_model_that_scores_or_embeds_has_no_head_for_the_vocabulary() -> None:
    whole, bare = read_public("Qwen/Qwen3-8B"), read_public("Qwen/Qwen3-8B", architectures=["Qwen3Model"])
    assert whole.parameters - bare.parameters == 151936 * 4096
    scorer = read_public(
        "Qwen/Qwen3-8B", architectures=["Qwen3ForSequenceClassification"], id2label={"0": "LABEL_0"}
    )
    assert scorer.parameters - bare.parameters == 4096
