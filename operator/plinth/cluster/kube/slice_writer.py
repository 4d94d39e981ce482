"""Keeps the EndpointSlices in the cluster as the newest route table wants them: the writing half of SliceGateway.

A queue of slices to look at, each once at a time, worked off by a few writers: what a writer finds wanted when its turn
comes is what it writes, so the newest table wins without a plan of steps. A slice that is as wanted is not written. Drift
(somebody's edit, a deletion, a slice that nobody wants) is queued as soon as the watch tells of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plinth.cluster.kube.client import KubeAway, KubeClient, KubeRefused, NotLeaderError
from plinth.cluster.kube.reflector import ObjectName
from plinth.cluster.kube.slice_view import SliceView
from plinth.desired.endpoint_slices import (
    MARKER,
    Owner,
    is_as_wanted,
    marker,
    model_of,
    slices_of,
)
from plinth.desired.slice_reading import marker_version
from plinth.domain.traffic import ModelRoute, RouteTable

WRITERS = 8
SETTLE_SECONDS = 0.25
"""A burst of changes in the cluster is looked at once."""
LOOK_SECONDS = 60.0
"""Between looks at everything although the watch told nothing."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
REFUSED_SECONDS = 30.0
"""Before a slice that the API server refused is tried again."""

FindOwner = Callable[[str], Owner | None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Model:
    """What a model's slices were made of, and their names."""

    route: ModelRoute
    owner: Owner | None
    names: frozenset[ObjectName]


@dataclass
class _Wanted:
    """A slice as it should be, and the version of the cluster's at which it was."""

    body: Mapping[str, Any]
    verified: str = ""


class SliceWriter:
    """All of Plinth's EndpointSlices. Nothing is written or deleted before the first table is wanted."""

    def __init__(self, client: KubeClient, *, release_namespace: str, find_owner: FindOwner) -> None:
        """`find_owner` gives the reference to a ModelDeployment, None for one that is no more.

        Before the first table is wanted it must know all of them: a model without an owner loses its slices.
        """
        self._marker = (release_namespace, MARKER)
        self._find_owner = find_owner
        self._changed = asyncio.Event()
        self._slices = SliceView(client, self._changed.set)
        self._models: dict[str, _Model] = {}
        self._unknown: frozenset[str] = frozenset()
        self._wanted: dict[ObjectName, _Wanted] = {}
        self._queue: asyncio.Queue[ObjectName] = asyncio.Queue()
        self._queued: set[ObjectName] = set()
        self._busy: set[ObjectName] = set()
        self._again: set[ObjectName] = set()
        """Asked for while a writer was at it."""
        self._told: Mapping[str, Any] | None = None
        """The marker last written."""
        self._refused: dict[ObjectName, Mapping[str, Any] | None] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Begin to follow the slices; returns the version of the last table that was written, 0 without one."""
        await self._slices.start()
        return marker_version(self._slices.found(self._marker))

    async def close(self) -> None:
        """End; the slices stay as they are."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        await self._slices.close()

    def want(self, table: RouteTable, unknown: frozenset[str]) -> None:
        """Make the cluster's slices say this. Those of unknown models stay; only what changed is made anew."""
        routes = {route.model: route for route in table.models if route.model not in unknown}
        self._unknown = unknown
        for model, route in routes.items():
            made = self._models.get(model)
            if made is None or made.route != route:
                self._make(model, route)
        for model in self._models.keys() - routes.keys() - unknown:
            self._put(model, None, {})
        self._wanted[self._marker] = _Wanted(marker(self._marker[0], table.version))
        self._enqueue(self._marker)
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._write_on(), name="writer of slices") for _ in range(WRITERS)
            ]
            self._tasks.append(asyncio.create_task(self._look_on(), name="look at slices"))

    def _make(self, model: str, route: ModelRoute) -> None:
        owner = self._find_owner(model)
        bodies = {_name_of(each): each for each in slices_of(route, owner)} if owner else {}
        self._put(model, _Model(route, owner, frozenset(bodies)), bodies)

    def _put(self, model: str, made: _Model | None, bodies: Mapping[ObjectName, Mapping[str, Any]]) -> None:
        before = self._models.pop(model, None)
        if made is not None:
            self._models[model] = made
        for name in (before.names if before else frozenset()) - bodies.keys():
            del self._wanted[name]
            self._enqueue(name)
        for name, body in bodies.items():
            wanted = self._wanted.get(name)
            if wanted is None or wanted.body != body:
                self._wanted[name] = _Wanted(body)
                self._enqueue(name)

    def _enqueue(self, name: ObjectName) -> None:
        if name not in self._queued:
            self._queued.add(name)
            self._queue.put_nowait(name)

    async def _look_on(self) -> None:
        """Queue what differs from what is wanted, whoever changed it."""
        while True:
            self._changed.clear()
            try:
                self._look()
            except Exception:
                log.exception("the slices could not be looked at; the next change tries again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(SETTLE_SECONDS)

    def _look(self) -> None:
        for model, made in list(self._models.items()):
            if self._find_owner(model) != made.owner:
                self._make(model, made.route)
        for name in self._suspects():
            self._enqueue(name)

    def _suspects(self) -> Iterable[ObjectName]:
        for name in self._slices.names - self._wanted.keys():
            if self._slices.found(name) is not None and not self._is_kept(name):
                yield name
        for name, wanted in self._wanted.items():
            version = self._slices.version(name)
            if version and version == wanted.verified:
                continue
            found = self._slices.found(name)
            if found is not None and is_as_wanted(found, wanted.body):
                wanted.verified = version
            else:
                yield name

    async def _write_on(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            name = await self._queue.get()
            self._queued.discard(name)
            if name in self._busy:
                self._again.add(name)
                continue
            self._busy.add(name)
            try:
                await self._bring_about(name)
                pause = FIRST_PAUSE_SECONDS
            except (KubeAway, NotLeaderError) as error:
                if pause == FIRST_PAUSE_SECONDS:
                    log.info("%s/%s is not written just now, trying again: %s", *name, error)
                self._enqueue(name)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Exception:
                log.exception("%s/%s could not be written; the next look finds it again", *name)
            finally:
                self._busy.discard(name)
            self._finish(name)

    def _finish(self, name: ObjectName) -> None:
        if name in self._again:
            self._again.discard(name)
            self._enqueue(name)
        is_idle = not self._busy and self._queue.empty()
        if is_idle and self._told is not self._wanted[self._marker].body:
            self._enqueue(self._marker)

    async def _bring_about(self, name: ObjectName) -> None:
        """Write or delete one slice if need be. The marker's turn is when all others have been written."""
        wanted = self._wanted.get(name)
        body = wanted.body if wanted else None
        if name == self._marker and (len(self._busy) > 1 or not self._queue.empty()):
            return
        if name not in self._refused or self._refused[name] is not body:
            try:
                await self._replace(name, body)
            except KubeRefused as refusal:
                self._note_refusal(name, body, refusal)
        if name == self._marker:
            self._told = body

    async def _replace(self, name: ObjectName, body: Mapping[str, Any] | None) -> None:
        found = self._slices.found(name)
        if found is not None and (body is None or found.get("addressType") != body["addressType"]):
            # The type of addresses cannot be changed.
            await self._slices.delete(name)
            found = None
        if body is not None and (found is None or not is_as_wanted(found, body)):
            await self._slices.apply(name, body)

    def _note_refusal(self, name: ObjectName, body: Mapping[str, Any] | None, refusal: KubeRefused) -> None:
        log.warning("the API server refused the slice %s/%s: %s", *name, refusal)
        self._refused[name] = body
        asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._forget_refusal, name)

    def _forget_refusal(self, name: ObjectName) -> None:
        self._refused.pop(name, None)
        self._enqueue(name)

    def _is_kept(self, name: ObjectName) -> bool:
        """Whether it stays although this process never wanted it: its model's replicas cannot be known now."""
        found = self._slices.found(name)
        return found is not None and model_of(name[0], found["metadata"].get("labels")) in self._unknown


def _name_of(body: Mapping[str, Any]) -> ObjectName:
    metadata = body["metadata"]
    return metadata["namespace"], metadata["name"]
