"""Which of the operator's replicas leads: the one that holds a Lease, and how long it may count on that.

The rules are client-go's. A holder renews its Lease; another takes it over only when, by its own clock, it has seen no
renewal for the Lease's whole duration, so clocks need not agree. The holder counts from before it sent the renewal and
stops early: a write begun while `check` passes has ended, answered or given up, before anyone else can lead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from plinth.cluster.kube.client import WRITE_SECONDS, KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused, NotLeaderError
from plinth.cluster.kube.kinds import LEASE

DURATION_SECONDS = 15.0
RENEW_SECONDS = 5.0
MARGIN_SECONDS = 1.0
"""For clocks that do not run at quite the same pace."""
SAFE_SECONDS = DURATION_SECONDS - WRITE_SECONDS - MARGIN_SECONDS
"""How long after a renewal a write may still be begun."""
ATTEMPT_SECONDS = 3.0
RETRY_SECONDS = 0.5
LOOK_SECONDS = 2.0
"""How often one that does not lead looks whether it may."""
CONFLICT = 409

log = logging.getLogger("plinth.lease")


def find_identity() -> str:
    """Who we are: the pod, so that a restarted container takes its own Lease back at once; else host and chance."""
    pod = os.environ.get("POD_UID") or os.environ.get("POD_NAME")
    return pod or f"{socket.gethostname()}_{secrets.token_hex(4)}"


class LostError(Exception):
    """Somebody else holds the Lease."""


@dataclass(frozen=True)
class _Seen:
    """A state of the Lease, and when we first saw it by our own clock."""

    spec: Mapping[str, Any]
    at: float


class Election:
    """One candidate for one Lease; a `Fence` for all that only the leader may do.

    Give it a client of its own: renewals must not wait for a turn behind a thousand other writes.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._seen: _Seen | None = None
        self._lease: dict[str, Any] = {}
        self._renewed_at: float | None = None
        """When the last renewal that succeeded was sent; None while we do not hold the Lease."""

    @property
    def leads(self) -> bool:
        """Whether `check` passes now."""
        return self._renewed_at is not None and self._clock() - self._renewed_at < SAFE_SECONDS

    def check(self) -> None:
        """See Fence."""
        if not self.leads:
            raise NotLeaderError(f"{self._identity} does not hold the Lease {self._namespace}/{self._name}")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Each time we come to hold the Lease, `lead` until it is lost; then `lead` is cancelled at once.

        Ends only when cancelled, which gives the Lease back, or with what `lead` raises or when it returns.
        """
        while True:
            await self._take()
            log.info("this replica leads now", extra={"identity": self._identity})
            leading = asyncio.ensure_future(lead())
            lost = False
            try:
                await self._keep(leading)
            except LostError as error:
                lost = True
                log.warning("this replica leads no longer: %s", error)
            finally:
                leading.cancel()
                await asyncio.wait({leading})
                self._renewed_at = None
                if not lost:
                    await self._give_back()
            with contextlib.suppress(asyncio.CancelledError, NotLeaderError):
                leading.result()
                return

    async def _take(self) -> None:
        while True:
            with contextlib.suppress(KubeAway, KubeRefused, TimeoutError):
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    if await self._try_to_take():
                        return
            await asyncio.sleep(LOOK_SECONDS)

    async def _try_to_take(self) -> bool:
        lease = await self._client.get(LEASE, self._namespace, self._name)
        if lease is not None and not self._is_free(lease):
            return False
        await self._write(lease)
        return True

    def _is_free(self, lease: Mapping[str, Any]) -> bool:
        spec = lease.get("spec") or {}
        if self._seen is None or self._seen.spec != spec:
            self._seen = _Seen(spec, self._clock())
        holder = spec.get("holderIdentity")
        duration = float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        return not holder or holder == self._identity or self._clock() - self._seen.at >= duration

    async def _keep(self, leading: asyncio.Future[None]) -> None:
        """Renew until `leading` ends. Raises LostError."""
        pause = RENEW_SECONDS
        while True:
            await asyncio.wait({leading}, timeout=min(pause, self._seconds_left()))
            if leading.done():
                return
            try:
                async with asyncio.timeout(min(ATTEMPT_SECONDS, self._seconds_left())):
                    await self._renew()
                pause = RENEW_SECONDS
            except (KubeAway, KubeRefused, TimeoutError) as error:
                if self._seconds_left() < RETRY_SECONDS:
                    raise LostError(f"the Lease could not be renewed in time: {error!r}") from error
                pause = RETRY_SECONDS

    def _seconds_left(self) -> float:
        return SAFE_SECONDS - (self._clock() - (self._renewed_at or 0.0))

    async def _renew(self) -> None:
        try:
            await self._write(self._lease)
        except KubeRefused as refusal:
            if refusal.status != CONFLICT:
                raise
            # A renewal that seemed to fail may have come through; then the Lease is still ours.
            lease = await self._client.get(LEASE, self._namespace, self._name)
            holder = (lease or {}).get("spec", {}).get("holderIdentity")
            if holder != self._identity:
                raise LostError(f"{holder or 'nobody'} holds the Lease") from refusal
            await self._write(lease)

    async def _write(self, lease: dict[str, Any] | None) -> None:
        """Make the Lease ours, or ours for longer, if it is still as we know it."""
        asked = self._clock()
        if lease is None:
            metadata = {"namespace": self._namespace, "name": self._name}
            self._lease = await self._client.create(LEASE, {"metadata": metadata, "spec": self._claim({})})
        else:
            body = {"metadata": lease["metadata"], "spec": self._claim(lease.get("spec") or {})}
            self._lease = await self._client.replace(LEASE, body)
        self._renewed_at = asked

    def _claim(self, before: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_ours = before.get("holderIdentity") == self._identity
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_SECONDS),
            "acquireTime": before.get("acquireTime") or now if is_ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if is_ours or not before else transitions + 1,
        }

    async def _give_back(self) -> None:
        """Let another replica take over without waiting."""
        spec = {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        with contextlib.suppress(KubeAway, KubeRefused, TimeoutError):
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await self._client.replace(LEASE, {"metadata": self._lease["metadata"], "spec": spec})
