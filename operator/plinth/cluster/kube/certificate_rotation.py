"""When the webhook's certificates are made, trusted, served and forgotten, so that every handshake verifies.

    make the next pair -> put its authority into the bundle -> wait until every API server has seen that -> serve it
    -> ... -> its predecessor's authority leaves the bundle when it ends

Replicas of the operator read the Secret each at its own time, so for a while one serves the old certificate and
another the new one: both authorities are trusted before, during and after. The bundle itself remembers the old
ones: an authority made here stays in it until it ends, and with it ends all that it signed.

`next_step` decides and is pure; `WebhookCertificates` reads and writes.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plinth.cluster.kube.certificates import (
    NEXT,
    Pair,
    authority_ends,
    make_pair,
    own_authorities,
    read_pair,
    write_pair,
)
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeRefused
from plinth.cluster.kube.kinds import MUTATING_WEBHOOKS, SECRET, VALIDATING_WEBHOOKS, Kind

SECRET_NAME = "plinth-webhook-certificates"  # noqa: S105 - its name
SETTLE_SECONDS = 60.0
"""How long API servers are given to see a new bundle; they watch it, and are done in a second."""
CONFIGURATIONS = (VALIDATING_WEBHOOKS, MUTATING_WEBHOOKS)
MOST_STEPS = 8
"""Steps at once: from nothing to serving are five."""
CONFLICT = 409

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Make:
    """Have a next pair made."""


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Put these authorities into the webhook configurations."""

    bundle: bytes


@dataclass(frozen=True, kw_only=True)
class Promote:
    """Serve the next pair from now on."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do before then."""

    until: float


Step = Make | Publish | Promote | Wait


@dataclass(frozen=True, kw_only=True)
class State:
    """What there is: the Secret's two pairs, and what API servers are told to trust."""

    names: frozenset[str]
    """What a certificate has to be good for."""
    serving: Pair | None
    coming: Pair | None
    bundles: tuple[bytes, ...]
    """One of each webhook in each configuration."""
    trusted_since: Mapping[bytes, float] = field(default_factory=dict)
    """Since when each authority has been in all bundles, as far as this process has seen."""


def next_step(state: State, now: float) -> Step:
    """What to do next, one thing at a time; called again after each."""
    serving, coming = state.serving, state.coming
    if coming is None and (serving is None or serving.names != state.names or serving.renew_at <= now):
        return Make()
    wanted = wanted_bundle(state, now)
    if any(bundle != wanted for bundle in state.bundles):
        return Publish(bundle=wanted)
    if coming is not None:
        if (
            serving is None or serving.ends <= now
        ):  # nothing that verifies is served: waiting would help nobody
            return Promote()
        trusted_since = now if not state.bundles else state.trusted_since.get(coming.authority, now)
        settled = trusted_since + SETTLE_SECONDS
        return Promote() if settled <= now else Wait(until=settled)
    ends = [authority_ends(authority) for authority in _authorities(state, now)]
    return Wait(until=min([*ends, *([serving.renew_at] if serving else [])]))


def wanted_bundle(state: State, now: float) -> bytes:
    """Every authority that something served now or soon may be signed by, the oldest first."""
    return b"".join(_authorities(state, now))


def _authorities(state: State, now: float) -> list[bytes]:
    held = [pair.authority for pair in (state.serving, state.coming) if pair is not None and pair.ends > now]
    published = [each for bundle in state.bundles for each in own_authorities(bundle, now)]
    return sorted(dict.fromkeys((*published, *held)), key=lambda each: (authority_ends(each), each))


class WebhookCertificates:
    """The Secret and the two webhook configurations, as one replica of the operator sees them."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        names: Iterable[str],
        configuration: str = "plinth",
        make: Callable[[Iterable[str], float], Pair] = make_pair,
    ) -> None:
        """`client` should be fenced: only the leader writes. `configuration` names both webhook configurations."""
        self._client = client
        self._namespace = namespace
        self._names = frozenset(names)
        self._configuration = configuration
        self._make = make
        self._trusted_since: dict[bytes, float] = {}

    async def load(self) -> Pair | None:
        """The pair to serve; None while there is none. Raises KubeAway, KubeRefused."""
        secret = await self._client.get(SECRET, self._namespace, SECRET_NAME)
        return read_pair((secret or {}).get("data") or {})

    async def advance(self, now: float) -> float:
        """Take every step that is due; returns when the next one is. For the leader.

        Raises KubeAway, KubeRefused, NotLeaderError.
        """
        for _ in range(MOST_STEPS):
            secret = await self._client.get(SECRET, self._namespace, SECRET_NAME)
            configurations = [
                (kind, found)
                for kind in CONFIGURATIONS
                if (found := await self._client.get(kind, "", self._configuration)) is not None
            ]
            step = next_step(self._state(secret, configurations, now), now)
            if isinstance(step, Wait):
                return step.until
            if isinstance(step, Publish):
                for kind, found in configurations:
                    await self._publish(kind, found, step.bundle)
            else:
                await self._write(secret, step, now)
        return now  # somebody undoes what is done here; the caller's pace is fast enough for both

    def _state(
        self, secret: Mapping[str, Any] | None, configurations: list[tuple[Kind, dict[str, Any]]], now: float
    ) -> State:
        data = (secret or {}).get("data") or {}
        bundles = tuple(
            base64.b64decode((webhook.get("clientConfig") or {}).get("caBundle") or "")
            for _, found in configurations
            for webhook in found.get("webhooks") or []
        )
        trusted = [set(own_authorities(bundle, now)) for bundle in bundles]
        everywhere = set.intersection(*trusted) if trusted else set()
        self._trusted_since = {each: self._trusted_since.get(each, now) for each in everywhere}
        return State(
            names=self._names,
            serving=read_pair(data),
            coming=read_pair(data, NEXT),
            bundles=bundles,
            trusted_since=self._trusted_since,
        )

    async def _publish(self, kind: Kind, found: Mapping[str, Any], bundle: bytes) -> None:
        """Own the one field and no other: the rest is the chart's."""
        text = base64.b64encode(bundle).decode("ascii")
        webhooks = [
            {"name": webhook["name"], "clientConfig": {"caBundle": text}}
            for webhook in found.get("webhooks") or []
        ]
        body = {"metadata": {"name": found["metadata"]["name"]}, "webhooks": webhooks}
        await self._client.apply(kind, body)
        _log.info("told API servers to trust %d webhook authorities", bundle.count(b"BEGIN CERT"))

    async def _write(self, secret: Mapping[str, Any] | None, step: Make | Promote, now: float) -> None:
        """Change the Secret unless somebody did so first: then what they wrote is read and judged next."""
        data = (secret or {}).get("data") or {}
        if isinstance(step, Make):
            serving = read_pair(data)
            data = (write_pair(serving) if serving else {}) | write_pair(self._make(self._names, now), NEXT)
        else:
            data = {key.removeprefix(NEXT): value for key, value in data.items() if key.startswith(NEXT)}
        metadata = {"name": SECRET_NAME, "namespace": self._namespace}
        try:
            if secret is None:
                await self._client.create(SECRET, {"metadata": metadata, "type": "Opaque", "data": data})
            else:
                await self._client.replace(SECRET, {**secret, "data": data})
        except KubeRefused as refusal:
            if refusal.status != CONFLICT:
                raise
        _log.info("webhook certificate: %s", "the next one is made" if isinstance(step, Make) else "renewed")
