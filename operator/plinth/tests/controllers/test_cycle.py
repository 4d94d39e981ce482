"""Whole passes over a fake Ray and gateway: what is done, what is left alone, what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from plinth.api.v1alpha1 import ModelDeployment, ModelDeploymentStatus
from plinth.controllers.cycle import FleetCycle, Pass
from plinth.controllers.gather import key_of
from plinth.controllers.ports import DesiredModel, Ports, Resources, Statuses
from plinth.controllers.replica_reports import STARTING_POLLS_A_PASS
from plinth.desired.serve_config import ServeSettings
from plinth.domain import fitting
from plinth.domain.figures import EngineFigures, Prediction
from plinth.domain.fleet import Artifact, ArtifactRefusal, EngineReport, ModelFormat
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState, RouteTable
from plinth.tests.controllers import capacity_contract
from plinth.tests.controllers.fake_ray import FakeRay, OneRay, make_node_row
from plinth.tests.domain.builders import make_memory_figures
from plinth.tests.domain.test_figures import COMPUTED

SETTINGS = ServeSettings(
    secret_file="/s", secrets_dir="/d", cache_dir="/c", http_host="127.0.0.1", http_port=8123
)
LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.context_length": 8192,
    "llama.vocab_size": 49152,
}


def make_model(name: str = "chat", *, generation: int = 1, **spec: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "metadata": {"name": name, "generation": generation},
            "spec": {"model": {"source": f"file:///{name}.gguf"}, **spec},
        }
    )


@dataclass
class MemoryStore:
    models: list[ModelDeployment] = field(default_factory=list)
    statuses: dict[str, ModelDeploymentStatus] = field(default_factory=dict)

    def read(self, now: float) -> Resources:
        return Resources(
            models=tuple(
                DesiredModel(
                    resource=each.model_copy(
                        update={"status": self.statuses.get(each.metadata.name, ModelDeploymentStatus())}
                    ),
                    first_seen=0.0,
                )
                for each in self.models
            )
        )

    def write(self, statuses: Statuses) -> int:
        self.statuses = {key.name: status for key, status in statuses.models.items()}
        return len(self.statuses)


@dataclass
class FakeGateway:
    """Applies tables at once and reports what the test sets."""

    now: float = 0.0
    table: RouteTable | None = None
    loads: dict[str, int] = field(default_factory=dict)
    rates: dict[str, int] = field(default_factory=dict)
    """Output tokens a second, by model."""
    in_flight: dict[str, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    silent: bool = False
    sent: int = 0
    outliving: dict[str, ReplicaLoad] = field(default_factory=dict)

    def latest_report(self) -> tuple[LoadReport, float] | None:
        if self.silent:
            return None
        routes = [
            replica for model in (self.table.models if self.table else ()) for replica in model.replicas
        ]
        replicas = {
            each.slot: ReplicaLoad(
                in_flight=self.in_flight.get(each.slot, 0),
                state=ReplicaState.DEAD if each.slot in self.dead else each.state,
            )
            for each in routes
        }
        models = {
            model.model: ModelLoad(
                in_flight=self.loads.get(model.model, 0),
                queued=0,
                peak=self.loads.get(model.model, 0),
                output_tokens_total=round(self.rates.get(model.model, 0) * self.now),
            )
            for model in (self.table.models if self.table else ())
        }
        report = LoadReport(
            gateway="g",
            table_version=self.table.version if self.table else 0,
            models=models,
            replicas=replicas or self.outliving,
        )
        return report, self.now

    def send(self, table: RouteTable, *, unknown: frozenset[str] = frozenset()) -> int:
        if self.table is None or replace(table, version=self.table.version) != self.table:
            self.sent += 1
            self.table = replace(table, version=self.sent)
        return self.sent

    def ready(self, model: str) -> list[str]:
        assert self.table is not None
        route = next(each for each in self.table.models if each.model == model)
        return [each.slot for each in route.replicas if each.state is ReplicaState.READY]


class KnownModels:
    def read(self, model: ModelDeployment) -> Artifact | ArtifactRefusal | None:
        return Artifact(format=ModelFormat.GGUF, config=LLAMA, weights_bytes=100 * 2**20)

    def forget_all_but(self, models: Iterable[ModelDeployment]) -> None:
        """Nothing is kept."""


class World:
    """A cycle, its fakes and the time they share."""

    def __init__(self, *models: ModelDeployment) -> None:
        self.ray = FakeRay()
        self.gateway = FakeGateway()
        self.store = MemoryStore(list(models))
        self.restart()

    def restart(self) -> None:
        """A new process: all that the cycle remembered is gone."""
        ports = Ports(
            store=self.store,
            capacity=OneRay(self.ray, SETTINGS),
            replicas=self.ray,
            gateway=self.gateway,
            models=KnownModels(),
        )
        self.cycle = FleetCycle(ports=ports, clock=lambda: self.ray.now, on_pass=lambda _: None)

    async def pass_seconds(self, seconds: float, *, step: float = 0.5) -> Pass:
        for _ in range(int(seconds / step)):
            self.ray.now += step
            self.gateway.now = self.ray.now
            done = await self.cycle.run_once()
        return done

    def status(self, name: str = "chat") -> ModelDeploymentStatus:
        return self.store.statuses[name]

    def condition(self, kind: str, name: str = "chat") -> tuple[str, str]:
        found = next(each for each in self.status(name).conditions if each.type == kind)
        return found.status, found.reason


async def test_the_fake_keeps_the_capacity_contract() -> None:
    ray = FakeRay()

    async def passing() -> None:
        ray.now += 0.5

    await capacity_contract.holds(ray, SETTINGS, passing)


async def test_a_new_model_is_asked_of_ray_in_the_first_pass_and_routed_once_it_answers() -> None:
    world = World(make_model())
    await world.pass_seconds(0.5)
    assert len(world.ray.puts) == 1
    assert world.condition("Ready")[0] == "False"
    await world.pass_seconds(4)
    assert world.condition("Ready") == ("True", "Serving")
    assert world.gateway.ready("default/chat") == world.ray.names
    assert world.status().answered_revision == world.status().revision


async def test_nothing_is_written_while_nothing_changes() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    puts, sent = len(world.ray.puts), world.gateway.sent
    await world.pass_seconds(20)
    assert (len(world.ray.puts), world.gateway.sent) == (puts, sent)


async def test_progress_of_a_start_shows_in_the_status() -> None:
    world = World(make_model())
    await world.pass_seconds(2)
    step = world.status().progress[0]
    assert (step.phase, step.percent, step.eta_seconds) == ("Loading", 50, 1)


async def test_the_fault_of_an_accelerator_reaches_the_gateway_and_leaves_it_when_it_is_gone() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    for fault in ("GPU-333 has failing memory", ""):
        world.ray.fault = fault
        await world.pass_seconds(10)
        assert world.gateway.table is not None
        assert [each.fault for each in world.gateway.table.models[0].replicas] == [fault]


async def test_what_a_replica_tells_of_itself_stands_beside_what_was_predicted() -> None:
    world = World(make_model())
    await world.pass_seconds(1)
    predicted = world.status().predicted
    assert predicted is not None
    assert (world.status().measured, world.condition("AsPredicted")) == (None, ("Unknown", "NotMeasured"))
    memory = make_memory_figures(weights_bytes=predicted.weights_bytes, kv_tokens=predicted.kv_tokens)
    world.ray.tells = EngineFigures(memory=memory)
    await world.pass_seconds(4)
    measured = world.status().measured
    assert measured is not None
    assert (measured.kv_tokens, measured.start_milliseconds) == (predicted.kv_tokens, 412)
    assert world.condition("AsPredicted") == ("True", "FiguresAgree")
    world.restart()
    await world.pass_seconds(1)
    assert world.status().measured == measured


async def test_the_throughput_under_load_shows_and_steady_load_writes_no_new_status() -> None:
    world = World(make_model())
    await world.pass_seconds(4)
    world.gateway.loads["default/chat"], world.gateway.rates["default/chat"] = 3, 104
    await world.pass_seconds(15)
    measured = world.status().measured
    assert measured is not None
    assert (measured.tokens_per_second, measured.concurrency) == (100, 3)
    before = world.status()
    await world.pass_seconds(60)
    assert world.status() == before


async def test_what_replicas_deliver_corrects_what_later_passes_plan_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(make_model())
    computed = replace(COMPUTED, concurrency=3, tokens_per_second=200)
    memory = make_memory_figures()
    monkeypatch.setattr(fitting, "make_prediction", lambda *_: Prediction(memory=memory, computed=computed))
    world.ray.tells = EngineFigures(memory=memory)
    await world.pass_seconds(4)
    world.gateway.loads["default/chat"], world.gateway.rates["default/chat"] = 3, 120
    await world.pass_seconds(40)
    assert planned_throughput(world) == (200, 100)
    await world.pass_seconds(40)
    assert planned_throughput(world) == (120, 60)
    assert any("counted at 60%" in sentence for sentence in world.status().plan)
    assert world.condition("AsPredicted") == ("False", "FiguresPart")
    assert world.condition("Ready") == ("True", "Serving")
    world.gateway.loads.clear()
    await world.pass_seconds(40)
    assert planned_throughput(world) == (120, 60)


def planned_throughput(world: World) -> tuple[int | None, int]:
    predicted = world.status().predicted
    assert predicted is not None
    return predicted.tokens_per_second, predicted.throughput_percent


async def test_what_somebody_else_removed_is_put_back() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    world.ray.remove_behind_our_back(world.ray.names[0])
    await world.pass_seconds(5)
    assert len(world.ray.names) == 1
    assert world.condition("Ready") == ("True", "Serving")


async def test_after_ray_lost_everything_all_is_asked_for_again() -> None:
    world = World(make_model(scaling={"minReplicas": 2, "maxReplicas": 2}))
    await world.pass_seconds(5)
    world.ray.lose_everything()
    await world.pass_seconds(5)
    assert len(world.gateway.ready("default/chat")) == 2


async def test_while_ray_is_away_nothing_is_changed_and_the_status_says_so() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    table = world.gateway.table
    world.ray.away = True
    world.store.models = [make_model(generation=2, scaling={"minReplicas": 3, "maxReplicas": 3})]
    await world.pass_seconds(3)
    assert world.gateway.table == table
    assert world.condition("Placed") == ("Unknown", "CapacityAway")
    world.ray.away = False
    await world.pass_seconds(5)
    assert len(world.gateway.ready("default/chat")) == 3


async def test_a_restart_while_ray_is_away_leaves_the_outliving_gateways_routes_alone() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    before = world.gateway.table
    world.ray.away = True
    world.restart()
    await world.pass_seconds(2)
    assert world.gateway.table == before


async def test_a_restart_changes_nothing_that_runs() -> None:
    world = World(make_model(scaling={"minReplicas": 2, "maxReplicas": 2}))
    await world.pass_seconds(5)
    names, puts = world.ray.names, len(world.ray.puts)
    world.restart()
    await world.pass_seconds(10)
    assert world.ray.names == names
    assert len(world.ray.puts) == puts


async def test_a_replica_that_the_gateway_calls_dead_is_replaced_by_another_slot() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    dead = world.ray.names[0]
    world.gateway.dead.add(dead)
    await world.pass_seconds(0.5)
    assert dead not in world.ray.names
    await world.pass_seconds(5)
    assert world.gateway.ready("default/chat") != [dead]
    assert world.condition("Ready") == ("True", "Serving")


async def test_a_process_that_died_in_its_slot_is_replaced_and_its_last_words_are_kept() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    killed = world.ray.names[0]
    world.ray.kill(killed)
    done = await world.pass_seconds(0.5)
    slot = next(each for each in done.snapshot.slots if str(each.name) == killed)
    assert "ran out of luck" in slot.message
    await world.pass_seconds(5)
    assert killed not in world.ray.names
    assert world.condition("Ready") == ("True", "Serving")


async def test_a_new_version_takes_over_only_once_it_answers() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    old = world.gateway.ready("default/chat")
    world.store.models = [make_model(generation=2, objectives={"concurrency": 9})]
    await world.pass_seconds(1)
    assert world.gateway.ready("default/chat") == old
    assert world.condition("Updated") == ("False", "RollingOut")
    await world.pass_seconds(8)
    new = world.gateway.ready("default/chat")
    assert len(new) == 1
    assert new != old
    assert world.ray.names == new
    assert world.status().observed_generation == 2


async def test_a_draining_replica_stays_until_its_requests_have_ended() -> None:
    world = World(make_model(scaling={"minReplicas": 2, "maxReplicas": 2, "quietSeconds": 1}))
    await world.pass_seconds(5)
    for name in world.ray.names:
        world.gateway.in_flight[name] = 1
    world.store.models = [
        make_model(generation=2, scaling={"minReplicas": 1, "maxReplicas": 1, "quietSeconds": 1})
    ]
    await world.pass_seconds(10)
    assert len(world.gateway.ready("default/chat")) == 1
    assert len(world.ray.names) == 2
    world.gateway.in_flight.clear()
    await world.pass_seconds(2)
    assert world.ray.names == world.gateway.ready("default/chat")


async def test_a_version_that_fails_leaves_the_old_one_serving_with_the_engines_words() -> None:
    world = World(make_model())
    await world.pass_seconds(5)
    old = world.gateway.ready("default/chat")
    world.store.models = [make_model(generation=2, objectives={"concurrency": 9})]
    await world.pass_seconds(0.5)
    world.ray.broken[world.status().revision] = "unknown argument n-batchh"
    await world.pass_seconds(8)
    assert world.gateway.ready("default/chat") == old
    assert world.condition("Updated") == ("False", "RolloutStuck")
    message = next(each.message for each in world.status().conditions if each.type == "Updated")
    assert "unknown argument n-batchh" in message


async def test_an_unknown_load_scales_nothing_down() -> None:
    world = World(make_model(scaling={"minReplicas": 1, "maxReplicas": 3, "quietSeconds": 2}))
    world.gateway.loads["default/chat"] = 20
    await world.pass_seconds(8)
    assert len(world.ray.names) == 3
    world.gateway.loads["default/chat"] = 0
    world.gateway.silent = True
    await world.pass_seconds(20)
    assert len(world.ray.names) == 3
    assert world.condition("MetricsFresh") == ("False", "ReportMissing")
    world.gateway.silent = False
    await world.pass_seconds(20)
    assert len(world.ray.names) == 1


async def test_others_applications_on_a_joined_ray_are_kept() -> None:
    world = World(make_model())
    foreign = {"name": "somebody-elses", "import_path": "app:app", "route_prefix": "/x"}
    await world.ray.apply({"applications": [foreign]})
    await world.pass_seconds(5)
    assert foreign in world.ray.puts[-1]["applications"]
    assert "somebody-elses" in world.ray.names


async def test_a_deleted_model_leaves_nothing_behind() -> None:
    world = World(make_model(), make_model("other"))
    await world.pass_seconds(5)
    world.store.models = [make_model("other")]
    await world.pass_seconds(5)
    assert [name.split(".")[1] for name in world.ray.names] == ["other"]
    assert "chat" not in world.store.statuses


@pytest.mark.parametrize("name", ["chat"])
async def test_a_model_falls_asleep_and_stays_ready(name: str) -> None:
    world = World(make_model(name, scaling={"minReplicas": 0, "maxReplicas": 1, "quietSeconds": 3}))
    await world.pass_seconds(15)
    assert world.ray.names == []
    assert world.condition("Ready", name) == ("True", "ScaledToZero")
    world.gateway.loads[str(key_of(world.store.models[0]))] = 1
    await world.pass_seconds(4)
    assert len(world.gateway.ready("default/chat")) == 1


async def test_a_cycle_that_is_cancelled_as_it_is_woken_ends() -> None:
    world = World()
    for _ in range(20):
        running = asyncio.create_task(world.cycle.run())
        await asyncio.sleep(0.03)
        world.cycle.wake()
        await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=2)
        assert done, "it goes on although it was cancelled"


async def test_a_thousand_starting_replicas_are_asked_in_turns_and_none_is_forgotten() -> None:
    names = [f"m{number:03}" for number in range(STARTING_POLLS_A_PASS + 150)]
    world = World(*(make_model(name) for name in names))
    world.ray.node_rows = [make_node_row(memory_gib=4096)]
    asked: list[str] = []
    report = world.ray.report

    async def counting(host: str, port: int, slot: str) -> EngineReport | None:
        asked.append(slot)
        return await report(host, port, slot)

    world.ray.report = counting  # type: ignore[method-assign] # counts what the fake is asked
    await world.pass_seconds(1.5)
    asked.clear()
    await world.pass_seconds(0.5)
    assert len(asked) == STARTING_POLLS_A_PASS
    await world.pass_seconds(4)
    assert {world.condition("Ready", name)[0] for name in names} == {"True"}


async def test_a_replica_that_is_slow_to_answer_holds_up_no_other_and_is_heard_in_the_end() -> None:
    world = World(make_model("quick"), make_model("slow"))
    answers, report = asyncio.Event(), world.ray.report

    async def slow(host: str, port: int, slot: str) -> EngineReport | None:
        if ".slow." in slot:
            await answers.wait()
        return await report(host, port, slot)

    world.ray.report = slow  # type: ignore[method-assign] # a busy engine
    await world.pass_seconds(6)
    assert world.condition("Ready", "quick")[0] == "True"
    assert world.condition("Ready", "slow")[0] == "False"
    answers.set()
    await asyncio.sleep(0)
    await world.pass_seconds(2)
    assert world.condition("Ready", "slow")[0] == "True"
