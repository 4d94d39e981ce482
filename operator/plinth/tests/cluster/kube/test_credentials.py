"""Reading the Secrets that models name: what is wrong is said, what is right is said to nobody else."""

from __future__ import annotations

import base64
import logging

import pytest

from plinth.cluster.credentials import CredentialsError
from plinth.cluster.kube.credentials import KubeCredentials
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer

TOKEN = "hf_secret_token"


def with_secret(**data: bytes) -> FakeApiServer:
    server = FakeApiServer()
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    server.put("/api/v1/secrets", {"metadata": {"namespace": "team", "name": "hub"}, "data": encoded})
    return server


async def refusal(server: FakeApiServer, ref: str = "hub/token") -> str:
    with pytest.raises(CredentialsError) as refused:
        await KubeCredentials(server.client()).read("team", ref)
    assert refused.value.__cause__ is None
    return str(refused.value)


async def test_the_value_is_read_anew_each_time() -> None:
    server = with_secret(token=f"{TOKEN}\n".encode())
    credentials = KubeCredentials(server.client())
    assert await credentials.read("team", "hub/token") == TOKEN
    server.put(
        "/api/v1/secrets",
        {
            "metadata": {"namespace": "team", "name": "hub"},
            "data": {"token": base64.b64encode(b"hf_new").decode()},
        },
    )
    assert await credentials.read("team", "hub/token") == "hf_new"


async def test_what_is_missing_is_named() -> None:
    assert await refusal(FakeApiServer()) == "there is no Secret team/hub; create it with the key token"
    assert await refusal(with_secret(), "hub/token") == "Secret team/hub has no key token; it has no keys"
    assert (
        await refusal(with_secret(a=b"1", b=b"2"), "hub/token")
        == "Secret team/hub has no key token; it has a, b"
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [(b" \n", "the value is empty; put the token there"), (b"\xff", "the value must be text")],
)
async def test_a_value_that_is_no_token_is_refused(value: bytes, words: str) -> None:
    assert await refusal(with_secret(token=value)) == f"Secret team/hub, key token: {words}"


async def test_a_missing_role_binding_is_named_with_the_account_that_needs_it() -> None:
    server = with_secret(token=TOKEN.encode())

    async def forbid(_method: str, _path: str) -> None:
        account = "system:serviceaccount:plinth-system:plinth-operator"
        raise KubeRefused(
            403, "Forbidden", f'secrets "hub" is forbidden: User "{account}" cannot get resource'
        )

    server.before = forbid
    assert await refusal(server) == (
        "Secret team/hub may not be read: team has no RoleBinding of the ClusterRole plinth-namespace-access to the "
        "service account plinth-system/plinth-operator; the chart makes it for each namespace that its value "
        "`namespaces` lists"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KubeAway("the API server answered 500"), "the API server does not answer; it is asked again"),
        (KubeRefused(400, "BadRequest", "no"), "cannot be read: BadRequest"),
    ],
)
async def test_other_failures_are_told_apart(error: Exception, words: str) -> None:
    server = with_secret(token=TOKEN.encode())

    async def fail(_method: str, _path: str) -> None:
        raise error

    server.before = fail
    assert words in await refusal(server)


async def test_the_value_is_in_no_message_log_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = with_secret(token=TOKEN.encode())
    credentials = KubeCredentials(server.client())
    assert await credentials.read("team", "hub/token") == TOKEN
    told = await refusal(server, "hub/other") + caplog.text + repr(credentials) + repr(vars(credentials))
    assert TOKEN not in told
