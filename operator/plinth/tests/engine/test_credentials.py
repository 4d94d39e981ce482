"""A gated source's token: asked for, handed over, used for the download, and found nowhere else."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from plinth.cluster.replica_rest import ReplicaRest
from plinth.domain.fleet import EngineReport, SlotPhase
from plinth.engine.credentials import FolderToken, PushedToken
from plinth.engine.gate import MAX_TOKEN_BYTES, Gate
from plinth.engine.local_sources import SourcePlaces
from plinth.engine.progress import ReplicaProgress
from plinth.engine.replica import Replica
from plinth.engine.seam import LocalModel, Progress, SourceError
from plinth.engine.sources import ModelFetcher
from plinth.tests.engine.fake_engine import MODEL, FakeEngine
from plinth.tests.engine.hub_server import REPOSITORY, Hub, hub_server
from plinth.tests.engine.serving import PREFIX, SECRET, Served, http_server, make_spec, under_prefix

TOKEN = "hf_right_and_long_enough_to_be_found"
SLOT = PREFIX[1:]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub({"config.json": b"{}", "model.safetensors": b"w" * 5000})
    hub.gated_for = TOKEN
    with hub_server(hub) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def rest(tmp_path: Path) -> ReplicaRest:
    (tmp_path / "secret").write_text(SECRET)
    return ReplicaRest(tmp_path / "secret")


def fetcher(tmp_path: Path) -> ModelFetcher:
    return ModelFetcher(
        source=f"hf://{REPOSITORY}",
        revision=None,
        places=SourcePlaces(),
        cache_dir=tmp_path / "cache",
        private_cache_dir=tmp_path / "cache" / "private" / "team",
    )


class Waiting:
    """A replica in a cluster whose source wants a token, and the operator's way to it."""

    def __init__(self, served: Served, rest: ReplicaRest, replica: Replica) -> None:
        self.served, self.rest, self.replica = served, rest, replica
        url = urlsplit(served.base)
        self.host, self.port = str(url.hostname), int(url.port or 0)
        self.seen: list[str] = []

    async def report(self) -> EngineReport:
        async with asyncio.timeout(10):
            while (report := await self.rest.report(self.host, self.port, SLOT)) is None:
                pass  # a busy machine: the fleet cycle, too, asks again
        self.seen.append(repr(report))
        return report

    async def until(self, *phases: SlotPhase) -> EngineReport:
        async with asyncio.timeout(10):
            while (report := await self.report()).phase not in phases:
                await asyncio.sleep(0.01)
        return report

    async def deliver(self, token: str) -> bool:
        return await self.rest.deliver(self.host, self.port, SLOT, token)


@asynccontextmanager
async def waiting(
    rest: ReplicaRest, fetch: object, engine: FakeEngine | None = None
) -> AsyncIterator[Waiting]:
    inbox = PushedToken("hub/token")
    engine = engine or FakeEngine()
    engine.loaded.set()
    replica = Replica(make_spec(credentials="hub/token"), fetch, engine, inbox)  # type: ignore[arg-type] # a fake
    async with http_server(under_prefix(Gate(replica, SECRET, inbox))) as address:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as session:
            yield Waiting(Served(address + PREFIX, session), rest, replica)
        await rest.close()


async def test_a_replica_waits_for_its_token_downloads_with_it_and_serves(
    hub: Hub, rest: ReplicaRest, tmp_path: Path
) -> None:
    async with waiting(rest, fetcher(tmp_path)) as replica:
        report = await replica.until(SlotPhase.PENDING)
        assert report.needs_credentials
        assert report.message == "waiting for the token of the secret hub/token"
        assert hub.requests == []
        assert await replica.deliver(TOKEN + "\n")
        report = await replica.until(SlotPhase.READY)
        assert not report.needs_credentials
        assert f"Bearer {TOKEN}" in hub.tokens


@pytest.mark.usefixtures("hub")
async def test_a_wrong_token_fails_the_replica_in_words_that_do_not_hold_it(
    rest: ReplicaRest, tmp_path: Path
) -> None:
    async with waiting(rest, fetcher(tmp_path)) as replica:
        await replica.until(SlotPhase.PENDING)
        assert await replica.deliver("hf_wrong")
        report = await replica.until(SlotPhase.FAILED)
        assert report.message == (
            f"{REPOSITORY} is gated and the token of spec.model.credentials has no access: ask for it on the hub"
        )


@pytest.mark.parametrize("token", [TOKEN, "hf_wrong_and_long_enough_to_be_found"], ids=["right", "wrong"])
async def test_the_token_is_found_in_no_log_report_answer_or_repr(
    token: str, hub: Hub, rest: ReplicaRest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with waiting(rest, fetcher(tmp_path)) as replica:
        await replica.until(SlotPhase.PENDING)
        await replica.deliver(token)
        await replica.until(SlotPhase.READY, SlotPhase.FAILED)
        async with replica.served.session.get(replica.served.base + "/plinth/credentials") as answer:
            told = await answer.text()
        told += json.dumps(await replica.served.state())
        told += repr(replica.replica) + repr(vars(replica.replica)) + repr(rest) + repr(vars(rest))
    files = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert hub.requests
    assert token not in caplog.text
    assert token not in told + "".join(replica.seen)
    assert not any(token.encode() in content for content in files)
    assert token not in str(os.environ)


async def test_an_error_that_nobody_foresaw_does_not_tell_the_token(
    rest: ReplicaRest, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(token: SecretStr | None, _: Progress) -> LocalModel:
        raise ZeroDivisionError(f"with {token!r} and {token}")

    async with waiting(rest, fetch) as replica:
        await replica.until(SlotPhase.PENDING)
        await replica.deliver(TOKEN)
        report = await replica.until(SlotPhase.FAILED)
    assert report.message.startswith("ZeroDivisionError: with SecretStr(")
    assert TOKEN not in report.message + caplog.text


async def test_nobody_holds_the_token_once_the_model_is_there(rest: ReplicaRest) -> None:
    held: list[weakref.ref[SecretStr]] = []

    def fetch(token: SecretStr | None, _: Progress) -> LocalModel:
        assert token is not None
        assert token.get_secret_value() == TOKEN
        held.append(weakref.ref(token))
        return MODEL

    async with waiting(rest, fetch) as replica:
        await replica.until(SlotPhase.PENDING)
        await replica.deliver(TOKEN)
        await replica.until(SlotPhase.READY)
        async with asyncio.timeout(5):
            while held[0]() is not None:  # the thread that fetched may not have put its work aside yet
                await asyncio.sleep(0.01)


async def test_a_token_is_taken_once_and_only_by_a_replica_that_waits(rest: ReplicaRest) -> None:
    taken = []

    def fetch(token: SecretStr | None, _: Progress) -> LocalModel:
        taken.append(token)
        return MODEL

    async with waiting(rest, fetch) as replica:
        await replica.until(SlotPhase.PENDING)
        assert await replica.deliver(TOKEN)
        await replica.until(SlotPhase.READY)
        assert not await replica.deliver("another")
        assert len(taken) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b'{"token": 7}', 400),
        (b'{"token": "  "}', 400),
        (b'{"token": "' + b"x" * MAX_TOKEN_BYTES + b'"}', 400),
    ],
    ids=["empty", "absent", "a number", "blank", "large"],
)
async def test_what_is_no_token_is_refused_and_the_replica_waits_on(
    body: bytes, status: int, rest: ReplicaRest
) -> None:
    async with waiting(rest, lambda _, __: MODEL) as replica:
        await replica.until(SlotPhase.PENDING)
        url = replica.served.base + "/plinth/credentials"
        async with replica.served.session.put(url, data=body) as answer:
            assert answer.status == status
            assert (await answer.json())["error"]["code"] == "invalid_credentials"
        assert (await replica.report()).needs_credentials


async def test_strangers_can_neither_put_nor_get_a_token(rest: ReplicaRest) -> None:
    async with waiting(rest, lambda _, __: MODEL) as replica, aiohttp.ClientSession() as stranger:
        await replica.until(SlotPhase.PENDING)
        url = replica.served.base + "/plinth/credentials"
        async with stranger.put(url, json={"token": TOKEN}) as answer:
            assert answer.status == 401
        async with replica.served.session.get(url) as answer:
            assert answer.status == 405
        assert (await replica.report()).needs_credentials


async def test_a_replica_that_is_away_takes_nothing(rest: ReplicaRest) -> None:
    assert not await rest.deliver("127.0.0.1", 9, SLOT, TOKEN)
    assert await rest.report("127.0.0.1", 9, SLOT) is None
    await rest.close()


async def test_a_replica_that_ends_while_it_waits_ends_at_once(rest: ReplicaRest) -> None:
    engine = FakeEngine()
    async with waiting(rest, lambda _, __: MODEL, engine) as replica:
        await replica.until(SlotPhase.PENDING)
    assert engine.closed == 1


async def test_on_a_machine_of_ones_own_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    progress = ReplicaProgress()
    token = FolderToken(credentials="hub/token", secrets_dir=tmp_path)
    with pytest.raises(SourceError, match="secret hub/token cannot be read: No such file or directory"):
        await token.take(progress)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text(" \n")
    with pytest.raises(SourceError, match="secret hub/token is empty"):
        await token.take(progress)
    (tmp_path / "hub" / "token").write_text(f"{TOKEN}\n")
    assert (await token.take(progress)).get_secret_value() == TOKEN
    assert not progress.report.needs_credentials
