"""`plinth up` and `plinth keys` as people have them beside each other: two processes, a folder and a real gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest
from fleet import Fleet, free_port

from plinth.api.v1alpha1 import QuotaPolicyStatus, ResourceKey
from plinth.cluster.status_db import StatusDB
from plinth.tests.api.building import policy_document

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
REVOKED_WITHIN_SECONDS = 1.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Up, with a policy and no model. Its Ray is away: keys and policies do not wait for it."""
    made = Fleet(tmp_path)
    made.write(policy_document("standard", limits={"perKey": {"requestsPerMinute": 60}}), file="policy.yaml")
    try:
        made.up("--ray", f"http://127.0.0.1:{free_port()}")
        until(lambda: ask(made) is not None, seconds=60)
        yield made
    finally:
        made.clear()


def ask(fleet: Fleet, secret: str = "") -> int | None:
    """The status of an answer; None while nobody listens."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    with closing(HTTPConnection("127.0.0.1", fleet.port, timeout=5)) as connection:
        try:
            connection.request("GET", "/v1/models", headers=headers)
            return connection.getresponse().status
        except OSError:
            return None


def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> float:
    """Wait; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


def keys(fleet: Fleet, *words: str) -> str:
    done = fleet.run("keys", *words, "--folder", str(fleet.folder))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def status(fleet: Fleet) -> QuotaPolicyStatus:
    with StatusDB.open(fleet.state.status_db, read_only=True) as database:
        found = database.read_statuses().get(ResourceKey("QuotaPolicy", "default", "standard"))
    return found if isinstance(found, QuotaPolicyStatus) else QuotaPolicyStatus()


def test_a_key_is_asked_for_from_the_first_on_and_refused_within_a_second_of_its_end(fleet: Fleet) -> None:
    assert ask(fleet) != HTTPStatus.UNAUTHORIZED
    secret = keys(fleet, "create", "ci", "--policy", "standard")
    until(lambda: ask(fleet) == HTTPStatus.UNAUTHORIZED)
    assert ask(fleet, secret) != HTTPStatus.UNAUTHORIZED
    until(lambda: status(fleet).keys == 1)
    keys(fleet, "revoke", "ci")
    assert until(lambda: ask(fleet, secret) == HTTPStatus.UNAUTHORIZED) < REVOKED_WITHIN_SECONDS
    assert ask(fleet) == HTTPStatus.UNAUTHORIZED, "revoking the last key must not open the API"
    until(lambda: status(fleet).keys == 0)


def test_a_gateway_that_served_on_alone_is_told_of_a_key_s_end_by_the_next_up(fleet: Fleet) -> None:
    secret = keys(fleet, "create", "ci")
    until(lambda: ask(fleet) == HTTPStatus.UNAUTHORIZED)
    fleet.kill_up()
    keys(fleet, "revoke", "ci")
    assert ask(fleet, secret) != HTTPStatus.UNAUTHORIZED
    fleet.up("--ray", f"http://127.0.0.1:{free_port()}")
    until(lambda: ask(fleet, secret) == HTTPStatus.UNAUTHORIZED, seconds=60)


def test_keys_that_cannot_be_opened_stop_up_in_one_line(tmp_path: Path) -> None:
    made = Fleet(tmp_path)
    keys(made, "list")
    made.state.keys_db.write_bytes(b"no database at all " * 500)
    done = made.run("up", str(made.folder), "--listen", f"127.0.0.1:{made.port}")
    made.clear()
    assert done.returncode == 1
    assert "put a sound copy in its place" in done.stderr
    assert "Traceback" not in done.stderr
