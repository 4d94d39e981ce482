"""The further nodes of a replica that spans several: one Ray actor on each, in a bundle of the replica's placement group.

An actor fetches the model to its node and keeps the engine's process there (`plinth.engine.vllm_stage`). It belongs to
the replica: Ray ends it when the replica's process ends, and its own end is told to the replica, which then fails whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import ray
from pydantic import SecretStr
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from plinth.domain.fleet import Engine, ModelFormat
from plinth.engine.accelerators import NodeAccelerators, maker_here
from plinth.engine.conversion import converted
from plinth.engine.environment import give_home
from plinth.engine.logs import LogMark
from plinth.engine.place import NodeRank, Place
from plinth.engine.progress import ReplicaProgress
from plinth.engine.ray_node import find_accelerators, node_address
from plinth.engine.seam import EngineError, LocalModel, SourceError
from plinth.engine.slot import ReplicaArgs, make_fetcher
from plinth.engine.vllm_stage import StageOrder, encode_order

_log = logging.getLogger(__name__)


def find_place(args: ReplicaArgs) -> Place:
    """The place of the replica that runs in this process."""
    group = get_current_placement_group()
    nodes = group.bundle_count if group is not None else 1
    here = find_accelerators(args.accelerators_on(0))
    if nodes == 1:
        return Place(here=here)
    return Place(here=here, address=node_address(), further=RayFurtherNodes(args, group), nodes=nodes)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What an actor says once the model is on its node, or why it is not."""

    address: str
    accelerators: NodeAccelerators
    error: str = ""
    at_source: bool = False
    """Whether the error is the source's."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the engine's process on a node ended."""

    status: int
    log_lines: tuple[str, ...]


class StageActor:
    """The replica's part on one further node, in a process of Ray's there."""

    def __init__(self, args: bytes, part: int) -> None:
        self._args = msgspec.json.decode(args, type=ReplicaArgs)
        self._accelerators = find_accelerators(self._args.accelerators_on(part))
        self._model: LocalModel | None = None
        self._mark = LogMark.here()

    async def fetch(self, token: str | None) -> Fetched:
        """Bring the model to this node."""
        error, at_source = "", False
        try:
            self._accelerators.show(maker_here(), os.environ)
            self._model = await asyncio.to_thread(self._find, SecretStr(token) if token else None)
        except EngineError as refused:
            error = str(refused)
        except SourceError as refused:
            error, at_source = str(refused), True
        return Fetched(
            address=node_address(), accelerators=self._accelerators, error=error, at_source=at_source
        )

    def _find(self, token: SecretStr | None) -> LocalModel:
        cache_dir = Path(self._args.runtime.cache_dir).expanduser()
        give_home(cache_dir)
        progress = ReplicaProgress()
        model = make_fetcher(self._args, cache_dir)(token, progress)
        if model.format is ModelFormat.GGUF:
            model = converted(model, cache_dir, progress, lambda _: None)
        return model

    async def run(self, rank: NodeRank) -> Ended:
        """Be this rank of the engine; answers when its process has ended, which ends with this actor at the latest."""
        if self._model is None:
            raise RuntimeError("a part of an engine was started before its model was fetched")
        order = StageOrder(spec=self._args.spec, model=self._model, rank=rank, address=node_address())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "plinth.engine.vllm_stage"), stdin=asyncio.subprocess.PIPE, stdout=2
        )
        if process.stdin is not None:
            process.stdin.write(encode_order(order))  # and left open: its end is this actor's
        return Ended(status=await process.wait(), log_lines=self._mark.meaningful_lines())


class RayFurtherNodes:
    """All of one replica's, driven from the replica's own process. See `plinth.engine.place.FurtherNodes`."""

    def __init__(self, args: ReplicaArgs, group: PlacementGroup) -> None:
        self._args = args
        self._group = group
        self._actors: list[Any] = []
        self._fetching: list[Any] = []
        self._running: list[Any] = []
        self._fetched: tuple[Fetched, ...] = ()

    def begin(self, token: SecretStr | None) -> None:
        """Start the actors, one in each further bundle, and have them fetch."""
        if self._args.spec.engine != Engine.VLLM:
            raise EngineError(f"{self._args.spec.engine} computes on one node; the plan gave it several")
        encoded = msgspec.json.encode(self._args)
        for part, bundle in enumerate(self._group.bundle_specs[1:], start=1):
            place = PlacementGroupSchedulingStrategy(
                placement_group=self._group, placement_group_bundle_index=part
            )
            actor = ray.remote(StageActor).options(
                scheduling_strategy=place, max_restarts=0, **_all_of(bundle)
            )
            self._actors.append(actor.remote(encoded, part))
        # Not in the constructor's arguments: Ray keeps those for as long as it knows the actor.
        secret = token.get_secret_value() if token else None
        self._fetching = [actor.fetch.remote(secret) for actor in self._actors]

    def fetched(self) -> None:
        """Wait for all of them."""
        try:
            self._fetched = tuple(ray.get(self._fetching))
        except RayError as error:
            raise EngineError(
                f"a further node of this replica was lost while it fetched the model: {error}"
            ) from error
        for each in self._fetched:
            if each.error:
                kind = SourceError if each.at_source else EngineError
                raise kind(f"node {each.address}: {each.error}")

    def start(self, ranks: Sequence[NodeRank]) -> None:
        """Each node its rank."""
        self._running = [actor.run.remote(rank) for actor, rank in zip(self._actors, ranks, strict=True)]

    @property
    def accelerators(self) -> tuple[NodeAccelerators, ...]:
        """As each node found them."""
        return tuple(each.accelerators for each in self._fetched)

    async def until_dead(self) -> str:
        """The first that ends takes the replica with it: its layers are nowhere else."""
        waiting = {
            asyncio.wrap_future(running.future()): each.address
            for running, each in zip(self._running, self._fetched, strict=True)
        }
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
        first = next(iter(done))
        return f"the engine's part on node {waiting[first]} {_ending(first)}"

    def close(self) -> None:
        """End the actors' processes, and theirs with them."""
        actors, self._actors = self._actors, []
        for actor in actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)


def _all_of(bundle: Mapping[str, float]) -> dict[str, float]:
    """A bundle's resources as an actor's options: it takes all that was reserved on its node."""
    memory = int(bundle.get("memory", 0))
    return {"num_cpus": 0, "num_gpus": bundle.get("GPU", 0), **({"memory": memory} if memory else {})}


def _ending(future: asyncio.Future[Ended]) -> str:
    try:
        ended = future.result()
    except RayError as error:
        _log.error("A further node was lost: %s", error)
        return "was lost with its process of Ray"
    for line in ended.log_lines:
        _log.error("%s", line)  # into this log too, where the replica looks for the cause
    return f"ended with exit status {ended.status}"
