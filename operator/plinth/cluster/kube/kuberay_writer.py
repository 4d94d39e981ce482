"""Makes the pools' RayClusters what they should be: creates, sizes and deletes them, and writes nothing that is true.

What may go is checked once more: a worker whose Ray does not answer may hold replicas that nobody knows of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.capacity import CapacityAway
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import POD, RAY_CLUSTER
from plinth.cluster.kube.kuberay_secrets import SecretCopies
from plinth.cluster.kube.kuberay_watch import RaySight
from plinth.desired import ray_names
from plinth.desired.ray_cluster import (
    make_ray_cluster,
    make_worker_group,
    ray_cluster_key,
    says_all_of,
    sized,
)
from plinth.desired.ray_pods import Manifest, RaySettings
from plinth.domain.fleet import PoolPlan, WorkerGroupPlan
from plinth.domain.node_types import NodeType
from plinth.domain.worker_nodes import Worker

CONFLICT = 409
RETRY_SECONDS = 30.0
"""When something that was refused is tried again unchanged: a quota may have grown, a permission been given."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a pass wants of all RayClusters, and what it may rely on."""

    groups: Mapping[tuple[str, str], WorkerGroupPlan]
    """By RayCluster and group."""
    retired: frozenset[str]
    sight: RaySight
    answering: frozenset[str]
    """The RayClusters whose heads answered."""
    types: Mapping[str, tuple[NodeType, ...]]
    """By pool."""

    @classmethod
    def of(
        cls,
        plans: Iterable[PoolPlan],
        sight: RaySight,
        *,
        answering: Iterable[str],
        types: Mapping[str, tuple[NodeType, ...]],
    ) -> Wish:
        """The wish of all pools together."""
        groups: dict[tuple[str, str], WorkerGroupPlan] = {}
        retired: set[str] = set()
        for plan in plans:
            groups |= {(each.ray, each.group): each for each in plan.workers}
            retired |= set(plan.retired)
        return cls(
            groups=groups,
            retired=frozenset(retired),
            sight=sight,
            answering=frozenset(answering),
            types=types,
        )

    def workers(self, ray: str, group: str) -> list[Worker]:
        """The group's pods."""
        return [each for each in self.sight.workers if (each.ray, each.group) == (ray, group)]

    def sized(self, ray: str, group: Mapping[str, Any]) -> Manifest:
        """The group with the workers that are wanted of it."""
        pods = self.workers(ray, group["groupName"])
        plan = self.groups.get((ray, group["groupName"]))
        return sized(
            group,
            workers=plan.workers if plan else 0,
            remove=[each.name for each in pods if plan and each.name in plan.remove and self._may_go(each)],
            living=[each.name for each in pods if not each.leaving],
            leaving=[each.name for each in pods if each.leaving],
        )

    def may_be_deleted(self, ray: str) -> bool:
        """Whether nothing can run there that nobody knows of."""
        return all(self._may_go(each) for each in self.sight.workers if each.ray == ray)

    def _may_go(self, worker: Worker) -> bool:
        return worker.ray in self.answering or not worker.started


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """Something that the API server would not have."""

    pool: str
    asked: object
    at: float
    refusal: KubeRefused


@dataclass
class RayClusterWriter:
    """Writes RayClusters; one that is refused holds no other up."""

    client: KubeClient
    settings: RaySettings
    secrets: SecretCopies
    clock: Callable[[], float]
    _written: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each RayCluster as our last write left it, until the watch shows it or something newer."""
    _refusals: dict[str, _Refusal] = field(default_factory=dict)
    """By RayCluster."""

    @property
    def troubles(self) -> dict[str, str]:
        """What was refused, by pool."""
        return {
            each.pool: f"its RayCluster was refused: {each.refusal.message}"
            for each in self._refusals.values()
        }

    async def write(self, wish: Wish, pools: Sequence[GPUPool]) -> bool:
        """Whether anything was written. Raises CapacityAway where the API server did not answer, NotLeaderError."""
        current = {
            "/".join(ray_cluster_key(pool, self.settings)): pool
            for pool in pools
            if not pool.metadata.deletion_timestamp
        }
        for gone in self._refusals.keys() - current.keys() - wish.sight.clusters.keys():
            del self._refusals[gone]
        steps = [self._keep(ray, pool, wish, pools) for ray, pool in current.items()]
        steps += [
            self._empty(ray, cluster, wish)
            for ray, cluster in wish.sight.clusters.items()
            if ray not in current and not _is_leaving(cluster)
        ]
        steps += [
            self._strike_off(worker)
            for worker in wish.sight.workers
            if worker.leaving and _is_lost(worker, wish.sight)
        ]
        return await _all(steps)

    async def _strike_off(self, worker: Worker) -> bool:
        """KubeRay brings up no other worker while one ends, and on a lost machine nobody says that it has."""
        try:
            await self.client.delete(POD, worker.ray.partition("/")[0], worker.name, grace_seconds=0)
        except KubeAway as error:
            raise CapacityAway(f"pod {worker.name} could not be struck off: {error}") from error
        except KubeRefused as refusal:
            log.warning("pod %s could not be struck off: %s", worker.name, refusal)
            return False
        log.info("pod %s was struck off: it was to end, and its node %s is lost", worker.name, worker.host)
        return True

    async def _keep(self, ray: str, pool: GPUPool, wish: Wish, pools: Sequence[GPUPool]) -> bool:
        """The pool's current RayCluster, made or brought in line."""
        found = self._newest(ray, wish.sight.clusters.get(ray))
        if found is not None and _is_leaving(found):
            return False  # somebody deleted it; it is made anew once it is gone
        manifest = make_ray_cluster(pool, self._groups(ray, pool, found, wish), self.settings)
        shared = [each for each in pools if each.spec.namespace == pool.spec.namespace]

        async def write() -> bool:
            _require_readable(ray.partition("/")[0], wish.sight)
            copied = await self.secrets.ensure(ray.partition("/")[0], shared)
            if found is None:
                # Not by apply, to which a value of the wrong type is an error of the server's own (500).
                self._written[ray] = await self.client.create(RAY_CLUSTER, manifest)
                log.info("RayCluster %s was made", ray)
            elif says_all_of(manifest, found):
                return copied
            else:
                self._written[ray] = await self.client.apply(RAY_CLUSTER, manifest)
            return True

        return await self._unless_refused(ray, pool.metadata.name, manifest, write)

    async def _unless_refused(
        self, ray: str, pool: str, asked: object, write: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Write, unless the same was refused a short while ago."""
        before = self._refusals.get(ray)
        is_same = before is not None and before.asked == asked
        if before and is_same and self.clock() - before.at < RETRY_SECONDS:
            return False
        try:
            wrote = await write()
        except KubeAway as error:
            raise CapacityAway(f"RayCluster {ray} could not be written: {error}") from error
        except KubeRefused as refusal:
            if refusal.status == CONFLICT:
                return False  # somebody was quicker; the watch will show it
            self._refusals[ray] = _Refusal(pool=pool, asked=asked, at=self.clock(), refusal=refusal)
            if not is_same:
                log.warning("RayCluster %s was refused: %s", ray, refusal)
            return False
        self._refusals.pop(ray, None)
        return wrote

    def _groups(self, ray: str, pool: GPUPool, found: Mapping[str, Any] | None, wish: Wish) -> list[Manifest]:
        """The groups of the pool's types, and those of former types for as long as they have pods."""
        kinds = wish.types[pool.metadata.name]
        groups = [make_worker_group(pool, kind, self.settings) for kind in kinds]
        names = {kind.name for kind in kinds}
        former = [
            group
            for group in (found or {}).get("spec", {}).get("workerGroupSpecs") or ()
            if group["groupName"] not in names and wish.workers(ray, group["groupName"])
        ]
        return [wish.sized(ray, group) for group in (*_named_before(groups, found), *former)]

    async def _empty(self, ray: str, cluster: Mapping[str, Any], wish: Wish) -> bool:
        """A RayCluster that nobody asks for any more: its workers go as planned, then it goes itself."""
        found = self._newest(ray, cluster) or cluster
        metadata = found["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        is_done = ray in wish.retired and wish.may_be_deleted(ray)
        groups = [wish.sized(ray, group) for group in found["spec"].get("workerGroupSpecs") or ()]
        changes = {"workerGroupSpecs": groups}

        async def write() -> bool:
            if is_done:
                await self.client.delete(RAY_CLUSTER, namespace, name, uid=metadata["uid"])
                log.info("RayCluster %s holds nothing any more and was deleted", ray)
                return True
            if says_all_of(changes, found["spec"]):
                return False
            # Only onto what was looked at: the groups are a list, which is written whole.
            version = {"resourceVersion": metadata["resourceVersion"]}
            patch = {"metadata": version, "spec": changes}
            self._written[ray] = await self.client.patch(RAY_CLUSTER, namespace, name, patch)
            return True

        pool = metadata.get("labels", {}).get(ray_names.POOL_LABEL, "")
        return await self._unless_refused(ray, pool, (is_done, changes), write)

    def _newest(self, ray: str, seen: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """What the watch has shown, or what our last write answered while the watch is behind it."""
        written = self._written.get(ray)
        if written is None or (seen is not None and _version(seen) >= _version(written)):
            self._written.pop(ray, None)
            return seen
        if seen is not None and seen["metadata"]["uid"] != written["metadata"]["uid"]:
            return seen
        return written


async def _all(steps: Iterable[Awaitable[bool]]) -> bool:
    """Whether any step wrote. One that fails keeps no other from being made; the first failure is raised at the end."""
    done = await asyncio.gather(*steps, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return any(done)


def _require_readable(namespace: str, sight: RaySight) -> None:
    if namespace not in sight.namespaces:
        raise KubeRefused(
            403,
            "Forbidden",
            f"RayClusters and pods in namespace {namespace} cannot be read; it must exist, and the ClusterRole "
            "plinth-namespace-access must be bound there to the operator (the chart's `namespaces` does so)",
        )


def _is_leaving(item: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _is_lost(worker: Worker, sight: RaySight) -> bool:
    """Whether the worker's machine is gone or its kubelet silent; one that is only cordoned still ends its pods."""
    host = sight.hosts.get(worker.host)
    return bool(worker.host) and (host is None or not host.ready)


def _named_before(groups: Iterable[Manifest], found: Mapping[str, Any] | None) -> Iterable[Manifest]:
    """Fresh groups with the pods that were named to go, which `sized` keeps naming until they are gone."""
    before = {
        group["groupName"]: group.get("scaleStrategy") or {}
        for group in (found or {}).get("spec", {}).get("workerGroupSpecs") or ()
    }
    return ({**group, "scaleStrategy": before.get(group["groupName"], {})} for group in groups)


def _version(item: Mapping[str, Any]) -> int:
    """Resource versions of one kind only grow."""
    return int(item["metadata"]["resourceVersion"])
