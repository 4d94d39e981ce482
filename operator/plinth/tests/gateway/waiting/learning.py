"""Replicas that hold another number of streams than was planned, simulated until their limit should be known."""

from __future__ import annotations

from itertools import chain
from statistics import mean

from plinth.tests.gateway.waiting.simulation import Engine, Simulation
from plinth.tests.gateway.waiting.traffic import make_traffic

ENGINES = {
    f"{engine.streams} streams, {engine.planned} planned"
    + (", read side by side" if engine.side_seconds else ""): engine
    for engine in (
        Engine(planned=32, streams=32),
        Engine(planned=8, streams=32),
        Engine(planned=64, streams=32),
        Engine(planned=128, streams=16),
        Engine(planned=4, streams=4),
        Engine(planned=1, streams=8),
        Engine(planned=24, streams=24, side_seconds=0.7),
        Engine(planned=12, streams=24, side_seconds=0.7),
    )
}
SMALLER = Engine(streams=12)


def learnt_limit(engine: Engine, seed: int) -> float:
    """The limit on average, from the 200th second to the 300th, against the streams that the engine holds."""
    simulation = Simulation((engine,))
    limits: list[int] = []
    saturation = simulation.replicas["replica-0"].saturation
    for second in range(200, 300):
        simulation.at(float(second), lambda: limits.append(saturation.limit))
    _run(simulation, seed, 300)
    return mean(limits) / engine.streams


def limit_after_shrinking(seed: int) -> float:
    """The same once an engine of 32 streams has for 280 s held 12: as after a restart with less memory."""
    simulation = Simulation((Engine(),))
    replica = simulation.replicas["replica-0"]

    def shrink() -> None:
        replica.engine = SMALLER

    simulation.at(120.0, shrink)
    _run(simulation, seed, 400)
    return replica.saturation.limit / SMALLER.streams


def is_right(share: float, streams: int) -> bool:
    """Up to a sixth too few, a tenth or one too many: what the next trial may be about."""
    return 0.84 <= share <= 1 + max(0.1, 1.01 / streams)


def _run(simulation: Simulation, seed: int, seconds: float) -> None:
    keys = (
        make_traffic(f"key-{number}", rate=3, seconds=seconds, seed=seed, patience=1e9)
        for number in range(10)
    )
    simulation.run(chain.from_iterable(keys), until=seconds)
