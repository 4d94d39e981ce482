"""A LoRA adapter from its source to what vLLM is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plinth.api.v1alpha1 import EngineChoice
from plinth.domain.engines import EngineDecision, EngineRefusal, choose_engine
from plinth.domain.fleet import Engine, ModelFormat
from plinth.domain.permissions import refuse_on
from plinth.domain.pools import resolve_pools
from plinth.domain.revisions import revision_of
from plinth.engine.local_sources import SourcePlaces
from plinth.engine.progress import ReplicaProgress
from plinth.engine.seam import EngineError, LocalAdapter, LocalModel, SourceError
from plinth.engine.sources import ModelFetcher
from plinth.engine.vllm_args import make_arguments
from plinth.tests.domain.builders import make_node, make_pool, make_resource
from plinth.tests.engine.lora_files import write_adapter
from plinth.tests.engine.serving import SMOLLM2, make_spec


def fetch(tmp_path: Path, *, shared: Path | None = None, **adapters: str) -> LocalModel:
    fetcher = ModelFetcher(
        source=SMOLLM2,
        revision=None,
        places=SourcePlaces(shared=shared),
        cache_dir=tmp_path / "cache",
        private_cache_dir=tmp_path / "private",
        adapters=adapters,
    )
    return fetcher(None, ReplicaProgress())


def refusal(tmp_path: Path, *, shared: Path | None = None, **adapters: str) -> str:
    with pytest.raises(SourceError) as refused:
        fetch(tmp_path, shared=shared, **adapters)
    return str(refused.value)


def test_adapters_are_found_beside_their_model(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "law", rank=4, layers=1)
    model = fetch(tmp_path, law=f"file://{folder}")
    assert model.adapters == {"law": LocalAdapter(path=folder, rank=4)}
    assert fetch(tmp_path).adapters == {}


def test_an_adapter_out_of_bounds_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "law", layers=1)
    (tmp_path / "shared").mkdir()
    found = refusal(tmp_path, shared=tmp_path / "shared", law=f"file://{folder}")
    assert found.startswith(f"the adapter law: file://{folder}: ")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("no weights", "holds weights in a format|no .safetensors or .gguf file"),
        ("other weights", "has no adapter_model.safetensors at its top; name the folder"),
        ("no config", "has no adapter_config.json at its top; name the folder that PEFT saved"),
        ("no rank", "adapter_config.json cannot be read: "),
        ("a rank too high", "has rank 1024; vLLM loads ranks from 1 to 512"),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused_with_what_would_work(
    tmp_path: Path, broken: str, words: str
) -> None:
    folder = write_adapter(tmp_path / "law", layers=1)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    match broken:
        case "no weights":
            weights.rename(folder / "adapter_model.bin")
        case "other weights":
            weights.rename(folder / "model.safetensors")
        case "no config":
            config.unlink()
        case "no rank":
            config.write_text("{}")
        case _:
            config.write_text(json.dumps({"r": 1024}))
    found = refusal(tmp_path, law=f"file://{folder}")
    assert found.startswith(f"the adapter law: file://{folder}: ")
    assert any(each in found for each in words.split("|"))


def test_vllm_is_told_the_names_that_clients_ask_for() -> None:
    adapters = {
        "law": LocalAdapter(path=Path("/l,=w"), rank=5),
        "med": LocalAdapter(path=Path("/med"), rank=33),
    }
    model = LocalModel(
        path=Path("/m"), format=ModelFormat.SAFETENSORS, weights_bytes=1 << 30, adapters=adapters
    )
    sources = {"law": "file:///l,=w", "med": "hf://org/med"}
    spec = make_spec(engine=Engine.VLLM, adapters=sources, adapter_rank=64)
    told = make_arguments(spec, model)
    at = told.index("--lora-modules")
    assert told[at - 3 : at] == ["--enable-lora", "--max-loras=2", "--max-lora-rank=64"]
    assert [json.loads(each) for each in told[at + 1 : at + 3]] == [
        {"name": "chat:law", "path": "/l,=w"},
        {"name": "chat:med", "path": "/med"},
    ]
    assert "--enable-lora" not in make_arguments(make_spec(engine=Engine.VLLM), model)


def test_an_adapter_that_there_is_no_room_for_is_refused_with_the_rank_to_set() -> None:
    model = LocalModel(
        path=Path("/m"),
        format=ModelFormat.SAFETENSORS,
        weights_bytes=1 << 30,
        adapters={"law": LocalAdapter(path=Path("/law"), rank=17)},
    )
    spec = make_spec(engine=Engine.VLLM, adapters={"law": "file:///law"}, adapter_rank=16)
    with pytest.raises(EngineError, match=r"law has rank 17, and there is room for 16; set its rank to 17"):
        make_arguments(spec, model)
    assert "--max-lora-rank=32" in make_arguments(replace(spec, adapter_rank=32), model)


def test_vllm_on_a_cpu_leaves_its_adapters_their_part_of_the_memory() -> None:
    model = LocalModel(path=Path("/m"), format=ModelFormat.SAFETENSORS, weights_bytes=1 << 30)
    spec = make_spec(engine=Engine.VLLM, memory_bytes=8 << 30)
    (plain,) = (each for each in make_arguments(spec, model) if "kv-cache-memory" in each)
    (less,) = (
        each
        for each in make_arguments(replace(spec, adapter_bytes=1 << 30), model)
        if "kv-cache-memory" in each
    )
    assert int(plain.partition("=")[2]) - int(less.partition("=")[2]) == 1 << 30


def test_another_adapter_is_another_revision_and_none_is_the_one_before_there_were_any() -> None:
    plain, law = make_spec(engine=Engine.VLLM), make_spec(engine=Engine.VLLM, adapters={"law": "hf://a/b"})
    other = make_spec(engine=Engine.VLLM, adapters={"law": "hf://a/c"})
    assert len({revision_of(each) for each in (plain, law, other)}) == 3
    assert revision_of(make_spec(engine=Engine.VLLM, adapters={})) == revision_of(plain)


def test_a_model_with_adapters_is_given_to_vllm_or_to_nobody() -> None:
    (pool,) = resolve_pools((), [make_node()])

    def choose(choice: EngineChoice, source: str) -> EngineDecision | EngineRefusal:
        return choose_engine(
            choice=choice, model_format=ModelFormat.GGUF, source=source, pool=pool, adapters=True
        )

    decided = choose(EngineChoice.AUTO, SMOLLM2)
    assert isinstance(decided, EngineDecision)
    assert (decided.engine, decided.reason) == (
        Engine.VLLM,
        "VLLM: LlamaCpp gets no adapters and spec.adapters names some",
    )
    assert isinstance(choose(EngineChoice.AUTO, "hf://org/name-GGUF"), EngineRefusal)


def test_an_adapter_on_a_volume_needs_what_a_model_on_one_needs() -> None:
    (shared,) = resolve_pools([make_pool("shared")], [make_node()])
    spec = make_resource(
        adapters=[{"name": "a", "source": "hf://o/a"}, {"name": "b", "source": "pvc://loras/b"}]
    ).spec
    found = refuse_on(shared, spec, [Engine.VLLM])
    assert found is not None
    assert found.startswith("spec.adapters[1].source: pvc:// needs a pool with a namespace of its own")
