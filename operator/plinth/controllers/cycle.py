"""The fleet cycle: gather, plan, execute, status; again whenever something may have changed.

Level-triggered: a pass looks at everything, so a wake-up carries no message and a missed one costs only time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from plinth.cluster.kube.errors import NotLeaderError
from plinth.controllers.credentials import deliver_credentials
from plinth.controllers.execute import execute
from plinth.controllers.gather import Gatherer
from plinth.controllers.ports import Ports, Statuses
from plinth.controllers.status import make_statuses
from plinth.domain.allotment import PlaceMemory
from plinth.domain.at_rest import Rest
from plinth.domain.fleet import FleetPlan, FleetSnapshot, SlotAction, SlotPhase
from plinth.domain.planner import compute_plan
from plinth.domain.targets import TargetMemory

BUSY_SECONDS = 0.5
IDLE_SECONDS = 2.0
SETTLE_SECONDS = 0.02
LONGEST_SETTLE_SECONDS = 1.0
"""How long what may still come is waited for after a wake-up: half of what the last pass took, between these two."""
IDLE_SHARE = 0.005
"""While nothing moves, passes take no more of the time than this: a large fleet is looked at less often."""
LONGEST_IDLE_SECONDS = 30.0

log = logging.getLogger("plinth.cycle")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One finished pass, for those who watch."""

    snapshot: FleetSnapshot
    plan: FleetPlan
    statuses: Statuses
    put: bool
    took_seconds: float
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """What each step took of it."""


@dataclass
class FleetCycle:
    """Runs passes until it is cancelled."""

    ports: Ports
    clock: Callable[[], float]
    on_pass: Callable[[Pass], None]
    on_failure: Callable[[Exception], None] = lambda _error: None
    gatherer: Gatherer = field(init=False)
    _targets: TargetMemory = field(default_factory=TargetMemory)
    _places: PlaceMemory = field(default_factory=PlaceMemory)
    _rest: Rest = field(default_factory=Rest)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gatherer = Gatherer(self.ports)

    def wake(self) -> None:
        """Something may have changed: make a pass soon."""
        self._wake.set()

    async def run(self) -> None:
        """Pass after pass. A pass that fails is logged and made again; nothing is lost by it.

        Raises NotLeaderError where another replica leads now.
        """
        while True:
            self._wake.clear()
            try:
                done = await self.run_once()
                pause = _pause(done, self.clock())
                settle = min(max(SETTLE_SECONDS, done.took_seconds / 2), LONGEST_SETTLE_SECONDS)
            except NotLeaderError:
                raise
            except Exception as error:
                log.exception("a pass of the fleet cycle failed; it is made again")
                self.on_failure(error)
                pause = settle = IDLE_SECONDS
            await self._sleep(pause, settle=settle)

    async def run_once(self) -> Pass:
        """One pass."""
        started = self.clock()
        snapshot, resources = await self.gatherer.gather(started)
        gathered = self.clock()
        plan = compute_plan(snapshot, started, targets=self._targets, places=self._places, rest=self._rest)
        self.gatherer.memory.take_corrections(plan.models)
        planned = self.clock()
        put = await execute(plan, rays=self.gatherer.rays, ports=self.ports, snapshot=snapshot)
        await deliver_credentials(snapshot.slots, self.gatherer.replicas, self.ports)
        executed = self.clock()
        statuses = make_statuses(snapshot, plan, resources, started)
        self.ports.store.write(statuses)
        ended = self.clock()
        done = Pass(
            snapshot=snapshot,
            plan=plan,
            statuses=statuses,
            put=put,
            took_seconds=ended - started,
            step_seconds={
                "gather": gathered - started,
                "plan": planned - gathered,
                "execute": executed - planned,
                "status": ended - executed,
            },
        )
        self.on_pass(done)
        return done

    async def _sleep(self, seconds: float, *, settle: float) -> None:
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the wake-up.
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        # A burst of wake-ups (an editor's save, twenty requests at once) becomes one pass.
        await asyncio.sleep(settle)


def _pause(done: Pass, now: float) -> float:
    """How long nothing need be looked at, if nobody wakes us."""
    moving = any(
        slot.phase not in {SlotPhase.READY, SlotPhase.STOPPING} for slot in done.snapshot.slots
    ) or any(slot.action is not SlotAction.KEEP for model in done.plan.models for slot in model.slots)
    # A worker's pod wakes the cycle when it runs; that its Ray has joined is only seen by looking.
    busy = max(BUSY_SECONDS, done.took_seconds)
    idle = min(max(IDLE_SECONDS, done.took_seconds / IDLE_SHARE), LONGEST_IDLE_SECONDS)
    pause = busy if moving or done.put else idle
    if done.plan.wake_at is not None:
        pause = min(pause, max(done.plan.wake_at - now, 0.05))
    return pause
