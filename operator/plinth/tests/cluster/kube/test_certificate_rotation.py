"""Certificates over their life: at every moment what is served verifies by what API servers were told to trust."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from plinth.cluster.kube.certificate_rotation import (
    SECRET_NAME,
    SETTLE_SECONDS,
    Make,
    Promote,
    Publish,
    State,
    Wait,
    WebhookCertificates,
    next_step,
)
from plinth.cluster.kube.certificates import Pair, make_pair, read_pair, write_pair
from plinth.cluster.kube.errors import KubeAway
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.handshakes import TlsServer, connect, shake_hands

pytestmark = pytest.mark.process

NOW = 1_800_000_000.0
DAY = 86_400.0
NAME = "plinth-operator.plinth-system.svc"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
CONFIGURATIONS = (
    f"{ADMISSION}/validatingwebhookconfigurations",
    f"{ADMISSION}/mutatingwebhookconfigurations",
)
SECRET_KEY = ("/api/v1/secrets", "plinth-system", SECRET_NAME)


# One step at a time


def state(**changes: Any) -> State:
    nothing = State(names=frozenset({NAME}), serving=None, coming=None, bundles=(b"", b""))
    return replace(nothing, **changes)


def pair(made: float = NOW) -> Pair:
    return make_pair([NAME], made)


def test_from_nothing_a_pair_is_made_then_trusted_then_served_at_once() -> None:
    assert next_step(state(), NOW) == Make()
    first = pair()
    assert next_step(state(coming=first), NOW) == Publish(bundle=first.authority)
    trusted = state(coming=first, bundles=(first.authority,) * 2)
    assert next_step(trusted, NOW) == Promote()


def test_a_young_certificate_is_left_alone_until_two_thirds_of_its_life_are_over() -> None:
    serving = pair()
    calm = state(serving=serving, bundles=(serving.authority,) * 2)
    assert next_step(calm, NOW + 10 * DAY) == Wait(until=serving.renew_at)
    assert next_step(calm, serving.renew_at) == Make()


def test_the_next_certificate_waits_until_every_api_server_has_seen_its_authority() -> None:
    old, new = pair(), pair(NOW + 60 * DAY)
    now = NOW + 60 * DAY
    both = old.authority + new.authority
    rotating = state(serving=old, coming=new, bundles=(old.authority, both))
    assert next_step(rotating, now) == Publish(bundle=both)
    seen = replace(rotating, bundles=(both, both), trusted_since={new.authority: now})
    assert next_step(seen, now + 1) == Wait(until=now + SETTLE_SECONDS)
    assert next_step(seen, now + SETTLE_SECONDS) == Promote()


def test_a_leader_that_has_just_begun_waits_anew() -> None:
    old, new = pair(), pair(NOW + 60 * DAY)
    both = old.authority + new.authority
    step = next_step(state(serving=old, coming=new, bundles=(both, both)), NOW + 70 * DAY)
    assert step == Wait(until=NOW + 70 * DAY + SETTLE_SECONDS)


def test_the_old_authority_goes_when_its_certificate_ends_and_not_before() -> None:
    old, new = pair(), pair(NOW + 60 * DAY)
    both = old.authority + new.authority
    rotated = state(serving=new, bundles=(both, both))
    assert next_step(rotated, NOW + 61 * DAY) == Wait(until=old.ends)
    assert next_step(rotated, old.ends) == Publish(bundle=new.authority)


def test_after_a_long_absence_nobody_is_waited_for() -> None:
    old, new = pair(), pair(NOW + 200 * DAY)
    late = state(serving=old, coming=new, bundles=(new.authority,) * 2, trusted_since={})
    assert next_step(late, NOW + 200 * DAY) == Promote()


def test_a_certificate_for_another_name_is_replaced() -> None:
    serving = pair()
    moved = state(names=frozenset({"other.svc"}), serving=serving, bundles=(serving.authority,) * 2)
    assert next_step(moved, NOW) == Make()


def test_a_lost_bundle_is_put_back() -> None:
    serving = pair()
    lost = state(serving=serving, bundles=(serving.authority, b""))
    assert next_step(lost, NOW) == Publish(bundle=serving.authority)


def test_an_authority_that_somebody_else_added_does_not_stay() -> None:
    serving = pair()
    foreign = state(serving=serving, bundles=(serving.authority + serving.certificate,) * 2)
    assert next_step(foreign, NOW) == Publish(bundle=serving.authority)


def test_without_webhook_configurations_certificates_live_on() -> None:
    old, new = pair(), pair(NOW + 60 * DAY)
    step = next_step(state(serving=old, coming=new, bundles=()), NOW + 60 * DAY)
    assert step == Wait(until=NOW + 60 * DAY + SETTLE_SECONDS)


# On an API server


def make_cluster() -> FakeApiServer:
    server = FakeApiServer()
    for collection in CONFIGURATIONS:
        webhooks = [{"name": "x.plinth.dev", "clientConfig": {"service": {"name": "plinth-operator"}}}]
        server.put(collection, {"metadata": {"name": "plinth"}, "webhooks": webhooks})
    return server


def certificates(server: FakeApiServer, **more: Any) -> WebhookCertificates:
    return WebhookCertificates(server.client(), namespace="plinth-system", names=[NAME], **more)


def bundles(server: FakeApiServer) -> list[bytes]:
    found = [server.objects[collection, "", "plinth"] for collection in CONFIGURATIONS]
    return [base64.b64decode(each["webhooks"][0]["clientConfig"].get("caBundle", "")) for each in found]


async def test_the_first_leader_makes_what_all_replicas_serve() -> None:
    server = make_cluster()
    assert await certificates(server).load() is None
    until = await certificates(server).advance(NOW)
    served = await certificates(server).load()
    assert served is not None
    assert until == served.renew_at
    assert bundles(server) == [served.authority] * 2


async def test_a_second_look_writes_nothing() -> None:
    server = make_cluster()
    await certificates(server).advance(NOW)
    server.writes.clear()
    await certificates(server).advance(NOW + DAY)
    assert server.writes == []


async def test_of_two_that_begin_at_once_the_first_one_wins_and_both_end_well() -> None:
    server = make_cluster()

    async def slow(_method: str, _path: str) -> None:
        await asyncio.sleep(0)

    server.before = slow
    await asyncio.gather(*(certificates(server).advance(NOW) for _ in range(3)))
    served = await certificates(server).load()
    assert served is not None
    assert all(served.authority in bundle for bundle in bundles(server))


async def test_a_secret_that_somebody_broke_is_made_anew() -> None:
    server = make_cluster()
    await certificates(server).advance(NOW)
    server.objects[SECRET_KEY]["data"]["tls.key"] = "bm8="
    await certificates(server).advance(NOW + 1)
    served = read_pair(server.objects[SECRET_KEY]["data"])
    assert served is not None
    assert all(served.authority in bundle for bundle in bundles(server))


async def test_a_lost_answer_leaves_nothing_half_done() -> None:
    """Whichever write's answer is lost, the next look goes on from what is there."""
    for lost in range(1, 5):
        server, count = make_cluster(), iter(range(100))

        def fail(at: int, ticks: Iterable[int]) -> Callable[[str, str], Any]:
            ticks = iter(ticks)

            async def lose(method: str, _path: str) -> None:
                if method != "GET" and next(ticks) + 1 == at:
                    raise KubeAway("the answer is lost")

            return lose

        server.after = fail(lost, count)
        with pytest.raises(KubeAway):
            await certificates(server).advance(NOW)
        await certificates(server).advance(NOW + 1)
        served = await certificates(server).load()
        assert served is not None
        assert all(served.authority in bundle for bundle in bundles(server))


async def test_somebody_who_undoes_every_step_keeps_nobody_busy() -> None:
    server = make_cluster()
    await certificates(server).advance(NOW)

    async def undo(method: str, path: str) -> None:
        if method == "PATCH":
            server.objects[path.rsplit("/", 1)[0], "", "plinth"]["webhooks"][0]["clientConfig"] = {}

    server.after = undo
    server.put(CONFIGURATIONS[0], {"metadata": {"name": "plinth"}, "webhooks": [{"name": "x.plinth.dev"}]})
    assert await certificates(server).advance(NOW + 1) == NOW + 1


class SlowApiServer:
    """What an API server trusts that hears of every change as late as it may."""

    def __init__(self) -> None:
        self._heard: list[tuple[float, bytes]] = []

    def hear(self, bundle: bytes, now: float) -> None:
        self._heard.append((now, bundle))

    def trusts(self, now: float) -> bytes:
        return next(bundle for at, bundle in reversed(self._heard) if at <= now - SETTLE_SECONDS + 1)


async def test_through_two_rotations_every_handshake_verifies() -> None:
    """150 days: one replica loads at once, one a look later; one API server hears at once, one a minute later."""
    cluster, slow = make_cluster(), SlowApiServer()
    leader = certificates(cluster)
    prompt, late = TlsServer(), TlsServer()
    await prompt.start()
    await late.start()
    now, last_change, before = NOW, NOW, None
    seen: list[int] = []
    try:
        while now < NOW + 155 * DAY:
            await leader.advance(now)
            served = await leader.load()
            assert served is not None
            prompt.use(served)
            late.use(before or served)
            (bundle,) = set(bundles(cluster))
            slow.hear(bundle, now)
            changing = "next.tls.crt" in cluster.objects[SECRET_KEY]["data"] or served != before
            last_change = now if changing else last_change
            for port in (prompt.port, late.port):
                for trusted in (bundle, slow.trusts(now) if now > NOW + SETTLE_SECONDS else bundle):
                    certificate = await shake_hands(port, bundle=trusted, name=NAME, now=now)
                    seen += [certificate.serial_number] if certificate.serial_number not in seen else []
            before = served
            now += 15 if now - last_change < 3 * SETTLE_SECONDS else DAY
    finally:
        await prompt.stop()
        await late.stop()
    assert len(seen) == 3
    assert served is not None
    assert bundle == served.authority  # both before it have ended


async def test_a_client_that_trusts_another_authority_is_refused_by_its_own_check() -> None:
    """The walk above can fail: a stranger's bundle does not verify, nor does an ended certificate."""
    server, mine = TlsServer(), pair()
    await server.start()
    try:
        server.use(mine)
        await shake_hands(server.port, bundle=mine.authority, name=NAME, now=NOW)
        with pytest.raises(ssl.SSLCertVerificationError):
            await shake_hands(server.port, bundle=pair().authority, name=NAME, now=NOW)
        with pytest.raises(ssl.SSLCertVerificationError):
            await shake_hands(server.port, bundle=mine.authority, name="other.svc", now=NOW)
        with pytest.raises(Exception, match=r"not valid at validation time|expired|validity"):
            await shake_hands(server.port, bundle=mine.authority, name=NAME, now=mine.ends + 1)
    finally:
        await server.stop()


async def test_connections_under_way_outlive_a_new_certificate() -> None:
    server, old, new = TlsServer(), pair(), pair()
    await server.start()
    try:
        server.use(old)
        reader, writer = await connect(server.port, bundle=old.authority, name=NAME)
        server.use(new)
        await shake_hands(server.port, bundle=new.authority, name=NAME, now=NOW)
        writer.write(b"still here")
        assert await reader.read() == b"still here"
        writer.close()
        await writer.wait_closed()
    finally:
        await server.stop()


def test_the_secret_s_data_is_what_other_tools_expect() -> None:
    assert set(write_pair(pair())) == {"ca.crt", "tls.crt", "tls.key"}
