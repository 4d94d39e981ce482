"""Who is let in, as clients see it on the wire, and what of their secrets goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from plinth.domain.access import AccessTable
from plinth.domain.control_lines import encode_table
from plinth.tests.gateway.harness import (
    SECRET,
    STREAMING,
    eventually,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    running_gateway,
    scenario,
    stream,
)
from plinth.tests.gateway.wire.rig import (
    OTHER_KEY,
    TEAM_KEY,
    bearer,
    make_access,
    make_key,
    make_policy,
    model_at,
    serving,
    told,
)

pytestmark = pytest.mark.process

KEYS = make_access(
    keys=(
        make_key(),
        make_key("sk-plinth-old", expires_at=time.time() - 1),
        make_key("sk-plinth-few", models=("team/other",)),
        make_key(OTHER_KEY, tenant="other"),
    )
)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "invalid_api_key"),
        ({"Authorization": "Basic dTpw"}, 401, "invalid_api_key"),
        (bearer("sk-plinth-unknown"), 401, "invalid_api_key"),
        ({"x-api-key": "sk-plinth-unknown"}, 401, "invalid_api_key"),
        (bearer("sk-plinth-old"), 401, "invalid_api_key"),
        (bearer("sk-plinth-few"), 403, "model_not_allowed"),
        (bearer(OTHER_KEY), 404, "model_not_found"),
        (bearer(), 200, ""),
        ({"authorization": f"bearer  {TEAM_KEY}"}, 200, ""),
        ({"x-api-key": TEAM_KEY}, 200, ""),
    ],
)
def test_a_request_is_let_in_by_its_key_and_else_told_why_not(
    tmp_path: Path, headers: dict[str, str], status: int, code: str
) -> None:
    @scenario
    async def run() -> None:
        async with (
            replicas(None) as (upstream,),
            serving(tmp_path, model_at(upstream.port), access=KEYS) as rig,
        ):
            got = await rig.ask(headers=headers)
            assert got.status == status
            if status != 200:
                assert got.code == code
                assert got.headers["x-should-retry"] == "false"
                assert not upstream.seen
                for secret in headers.values():
                    assert secret.split()[-1] not in got.body.decode()
            assert (got.headers.get("www-authenticate") == "Bearer") == (status == 401)

    run()


@scenario
async def test_the_replica_gets_the_gateways_secret_and_never_the_clients(tmp_path: Path) -> None:
    async with replicas(None) as (upstream,), serving(tmp_path, model_at(upstream.port), access=KEYS) as rig:
        for headers in (bearer(), {"x-api-key": TEAM_KEY}, {**bearer(), "x-api-key": TEAM_KEY}):
            assert (await rig.ask(headers=headers)).status == 200
        for seen in upstream.seen:
            assert seen.headers["authorization"] == f"Bearer {SECRET}"
            assert TEAM_KEY not in repr(seen)


@scenario
async def test_a_revoked_key_is_refused_at_once_on_connections_that_are_open(tmp_path: Path) -> None:
    async with (
        replicas(stream(20, every=0.02)) as (upstream,),
        serving(tmp_path, model_at(upstream.port), access=KEYS) as rig,
    ):
        busy, idle = await rig.connect(), await rig.connect()
        assert (await idle.ask("/v1/models", method="GET", headers=bearer())).status == 200
        busy.send(request_bytes(body=STREAMING, headers=bearer()))
        await eventually(lambda: upstream.seen)
        await rig.admit_by(AccessTable(version=3))
        assert told(await idle.ask(headers=bearer()))[:2] == (401, "invalid_api_key")
        assert (await busy.answer()).body.endswith(b"[DONE]\n\n"), "what was let in goes on"


@scenario
async def test_models_are_listed_for_those_who_may_ask_them(tmp_path: Path) -> None:
    policy = make_policy(models=("team/tiny",))
    table = make_access(
        policy, keys=(make_key(TEAM_KEY, policy.name), make_key("all"), make_key(OTHER_KEY, tenant="other"))
    )
    models = (
        make_model(make_replica(1)),
        make_model(model="team/big", names=("big",)),
        make_model(model="other/theirs", names=("theirs",), aliases=("shared@v1",)),
    )
    async with serving(tmp_path, *models, access=table) as rig:

        async def listed(secret: str) -> list[str]:
            got = await rig.ask("/v1/models", method="GET", headers=bearer(secret))
            return [each["id"] for each in got.json()["data"]]

        assert await listed(TEAM_KEY) == ["tiny"]
        assert await listed("all") == ["big", "tiny"]
        assert await listed(OTHER_KEY) == ["theirs"]
        assert (await rig.ask("/v1/models", method="GET")).status == 401
        for name, status in (("tiny", 200), ("big", 404), ("theirs", 404)):
            assert (await rig.ask(f"/v1/models/{name}", method="GET", headers=bearer())).status == status


@pytest.mark.parametrize("asked", ["theirs", "other/theirs", "shared", "shared@v2", "embedder"])
def test_what_other_tenants_have_shows_in_no_refusal(tmp_path: Path, asked: str) -> None:
    @scenario
    async def run() -> None:
        models = (
            make_model(),
            make_model(model="other/theirs", names=("theirs", "other/theirs"), aliases=("shared@v1",)),
            make_model(model="other/embedder", names=("embedder",), task="Embed"),
        )
        async with serving(tmp_path, *models, access=KEYS) as rig:
            got = await rig.ask(headers=bearer(), body={"model": asked, "messages": []})
            assert told(got)[:2] == (404, "model_not_found")
            message = got.json()["error"]["message"].replace(repr(asked), "")
            assert not any(name in message for name in ("theirs", "shared", "embedder"))
            assert "tiny" in message

    run()


@scenario
async def test_nobody_is_let_in_before_there_is_an_access_table(tmp_path: Path) -> None:
    async with replicas(None) as (upstream,), running_gateway(tmp_path, access=None) as rig:
        rig.controller.send(encode_table(make_table(model_at(upstream.port))))
        await eventually(lambda: rig.gateway.core.fleet.version)
        got = await rig.ask(headers=bearer())
        assert (got.status, got.headers["retry-after"]) == (503, "1")
        assert (await rig.ask("/v1/models", method="GET")).status == 503
        assert (await rig.ask("/readyz", method="GET")).status == 503
        assert (await rig.ask("/livez", method="GET")).status == 200
