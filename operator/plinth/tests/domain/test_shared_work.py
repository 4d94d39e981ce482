from dataclasses import replace

import pytest

from plinth.domain import shared_work
from plinth.domain.fitting import Fit, FitRefusal, FitRequest, fit_replica
from plinth.domain.fleet import Artifact, ModelFormat
from plinth.domain.models.headers import StoredTensor, group_tensors
from plinth.domain.naming import ServedNames
from plinth.domain.pools import resolve_pools
from plinth.domain.shared_work import SharedWork
from plinth.domain.targets import TargetMemory
from plinth.tests.domain.builders import QWEN_32B_CONFIG, make_model, make_node, make_pool

NAMES = ServedNames(names=("chat",))


def test_models_that_are_alike_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(request: FitRequest) -> Fit | FitRefusal:
        calls.append(request)
        return fit_replica(request)

    monkeypatch.setattr(shared_work, "fit_replica", counted)
    memory = TargetMemory()
    (pool,) = resolve_pools((make_pool("h200"),), (make_node(accelerators=8),))
    for number in range(20):
        artifact = Artifact(format=ModelFormat.SAFETENSORS, config=dict(QWEN_32B_CONFIG), weights_bytes=1)
        model = make_model(f"m{number}", artifact=artifact, objectives={"concurrency": 1 + number % 2})
        memory.target_on(pool, model, NAMES)
    assert len(calls) == 2


def test_a_config_that_differs_in_one_entry_is_another_model() -> None:
    shared = SharedWork()
    layers = [
        shared.read(
            Artifact(
                format=ModelFormat.SAFETENSORS,
                config={**QWEN_32B_CONFIG, "num_hidden_layers": count},
                weights_bytes=1,
            )
        )
        for count in (64, 32, 64)
    ]
    assert layers[0] is layers[2]
    assert layers[0] != layers[1]


def test_tensors_that_tell_more_make_another_model() -> None:
    shared = SharedWork()
    plain = Artifact(format=ModelFormat.SAFETENSORS, config=QWEN_32B_CONFIG, weights_bytes=1)
    extra = StoredTensor("model.layers.0.mlp.up_proj.bias", "BF16", 10**6, 2 * 10**6)
    told = replace(plain, tensors=group_tensors([extra]))
    assert shared.read(plain) != shared.read(told)
    assert shared.read(told) is shared.read(replace(told))


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "MOST_KEPT", 2)
    shared = SharedWork()
    for layers in range(1, 8):
        config = {**QWEN_32B_CONFIG, "num_hidden_layers": layers}
        shared.read(Artifact(format=ModelFormat.SAFETENSORS, config=config, weights_bytes=1))
    assert len(shared._models) <= 2
