"""Runs kopf inside the operator: it follows our kinds and asks us about admission; what it sees goes to the store.

Of kopf only the events are used. No handler of ours has progress to remember, so it writes no annotations and no
finalizers; its peering is off, since the Lease decides who acts. Should it end by an error it is begun anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import aiohttp
import kopf

from plinth.api.v1alpha1 import GROUP, VERSION
from plinth.cluster.kube.kinds import Kind
from plinth.cluster.kube.login import Login, find_login

CONNECT_SECONDS = 5.0
CALL_SECONDS = 30.0
SILENCE_SECONDS = 70.0
"""A watch on which not even a bookmark came for so long, which come every minute, is begun anew."""
WATCH_SECONDS = 300
RESTART_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long kopf may be ended before that counts as not alive."""

Take = Callable[[str | None, Mapping[str, Any]], None]
"""Given how an object changed (None: it was listed) and the object as it is now."""

log = logging.getLogger("plinth.kopf")


class KopfFeed:
    """kopf with handlers that unpack and pass on."""

    def __init__(
        self,
        kinds: Iterable[Kind],
        take: Take,
        *,
        register: Callable[[kopf.OperatorRegistry], None] = lambda _registry: None,
        webhook_server: Any = None,
        take_signals_back: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            kinds: the kinds to follow, all of our group.
            take: given what is seen.
            register: adds handlers of others, as those of admission.
            webhook_server: serves admission.
            take_signals_back: called each time that kopf has put its signal handlers in place of ours.
        """
        self._registry = kopf.OperatorRegistry()
        self._webhook_server = webhook_server
        self._take_signals_back = take_signals_back
        self._again = asyncio.Event()
        self._ended_at: float | None = None
        kopf.on.login(registry=self._registry, id="login")(_log_in)
        for kind in kinds:
            kopf.on.event(GROUP, VERSION, kind.plural, id="seen", registry=self._registry)(_passing_on(take))
        register(self._registry)

    @property
    def alive(self) -> bool:
        """Whether kopf runs, or ended only just now."""
        return self._ended_at is None or asyncio.get_running_loop().time() - self._ended_at < PATIENCE_SECONDS

    def restart(self) -> None:
        """Begin anew: list all objects and follow them from there."""
        self._again.set()

    async def run(self) -> None:
        """Follow, until cancelled."""
        while True:
            try:
                await self._run_once()
            except Exception:
                log.exception("kopf ended; it is begun anew")
            self._ended_at = self._ended_at or asyncio.get_running_loop().time()
            await asyncio.sleep(RESTART_SECONDS)

    async def _run_once(self) -> None:
        self._again.clear()
        ready = asyncio.Event()
        tasks = await kopf.spawn_tasks(
            registry=self._registry,
            settings=self._settings(),
            standalone=True,
            clusterwide=True,
            ready_flag=ready,
        )
        self._take_signals_back()
        # Not kopf.run_tasks: at its end that cancels whatever else the event loop has.
        asking = asyncio.create_task(self._again.wait())
        began = asyncio.create_task(self._note_begin(ready))
        try:
            done, _ = await asyncio.wait({*tasks, asking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, asking, began):
                task.cancel()
            await asyncio.wait({*tasks, asking, began})
        for task in done:
            if not task.cancelled():
                task.result()

    async def _note_begin(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._ended_at = None

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.persistence.diffbase_storage = _Unremembered()
        # Our kinds are there before kopf begins, so it need neither watch all kinds nor be allowed to.
        settings.scanning.disabled = True
        settings.networking.connect_timeout = CONNECT_SECONDS
        settings.networking.request_timeout = CALL_SECONDS
        settings.networking.error_backoffs = _ForEver()
        settings.watching.connect_timeout = CONNECT_SECONDS
        settings.watching.inactivity_timeout = SILENCE_SECONDS
        settings.watching.server_timeout = WATCH_SECONDS
        # kopf would kill the whole process when it does not end in time; that is kubelet's to do.
        settings.process.ultimate_exiting_timeout = None
        if self._webhook_server is not None:
            settings.admission.server = self._webhook_server
        return settings


class _Unremembered(kopf.DiffBaseStorage):
    """What kopf should know of an object's last state: nothing. It copies the whole object otherwise, at each event."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _ForEver:
    """Pauses between tries of one call that never end: an API server that is away comes back."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0)
        while True:
            yield 2.0


def _passing_on(take: Take) -> Callable[..., Any]:
    async def seen(*, event: Mapping[str, Any], **_: Any) -> None:
        take(event["type"], event["object"])

    return seen


async def _log_in(**_: Any) -> kopf.AiohttpSession:
    """Kopf speaks to the API server as the rest of the operator does; asked again when it is told 401."""
    login = await find_login()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=login.ssl if login.ssl is not None else True, limit=0),
        middlewares=(_authorize(login),),
    )
    return kopf.AiohttpSession(server=login.server, aiohttp_session=session)


def _authorize(login: Login) -> aiohttp.ClientMiddlewareType:
    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.update(await login.headers())
        return await handler(request)

    return authorize
