"""No request reaches a replica but those that every parser would read so, however the bytes arrive."""

from __future__ import annotations

import pytest

from plinth.tests.gateway.shell.attacks import ATTACKS, SMUGGLED, Attack
from plinth.tests.gateway.shell.rig import BODY, Gateway, Replica, post

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _nothing_before(backend: Replica) -> None:
    backend.got.clear()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_follows_an_attack_reaches_no_replica(attack: Attack, served: Gateway, backend: Replica) -> None:
    last = post(b'{"model":"tiny","prompt":"last"}', b"Connection: close")
    follows = SMUGGLED if attack.refused else last
    expected = [*attack.reads] if attack.refused else [*attack.reads, b'{"model":"tiny","prompt":"last"}']
    with served.connect() as client:
        client.send(attack.data + follows)
        heard = client.hear_all()
    if attack.refused:
        assert heard[-1].status in {400, 405, 413, 417, 431, 501, 505}
        assert heard[-1].headers[b"connection"] == b"close"
        assert heard[-1].code
    assert len(heard) == attack.answers + 1
    assert [got.body for got in backend.got] == expected
    for got in backend.got:
        assert got.head.startswith(b"POST /team.tiny.abc.0/v1/completions HTTP/1.1\r\n")
        assert sum(line.startswith((b"content-length:", b"transfer-encoding:")) for line in got.lines) == 1
        assert sum(line.startswith(b"host:") for line in got.lines) == 1


@pytest.mark.parametrize(
    "attack", [each for each in ATTACKS if len(each.data) < 400], ids=lambda attack: attack.name
)
def test_an_attack_byte_by_byte_comes_to_the_same(attack: Attack, served: Gateway, backend: Replica) -> None:
    with served.connect() as client:
        client.send(*[attack.data[at : at + 1] for at in range(len(attack.data))])
        client.send(b"" if attack.refused else post(BODY, b"Connection: close"))
        if attack.name == "HTTP/0.9":
            client.send(b"\r\n")
        heard = client.hear_all()
    assert len(heard) == attack.answers + 1
    assert len(backend.got) == len(attack.reads) + (not attack.refused)


def test_answers_come_in_the_order_of_pipelined_requests(served: Gateway, backend: Replica) -> None:
    with served.connect() as client:
        client.send(b"".join([post(BODY, b"X-Request-Id: r%d" % number) for number in range(300)]))
        heard = [client.hear() for _ in range(300)]
    assert [each.headers[b"x-request-id"] for each in heard if each] == [
        b"r%d" % number for number in range(300)
    ]
    assert len(backend.got) == 300


def test_many_offers_to_upgrade_in_one_read_are_each_ignored(served: Gateway) -> None:
    """llhttp stops at each of them, and the rest must be read anew."""
    offer = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    before = served.cpu_seconds()
    with served.connect() as client:
        client.send(offer * 3000 + post(BODY, b"Connection: close"))
        heard = client.hear_all()
    assert heard, "no answer at all"
    assert heard[-1].status == 200 or len(heard) < 3001
    assert served.cpu_seconds() - before < 2
