"""Model credentials are read from a real API server, by an account that may read what its namespace lets it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from kube.access import Kubernetes

from plinth.cluster.credentials import CredentialsError
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.credentials import ACCESS_ROLE, KubeCredentials

pytestmark = pytest.mark.kube

TOKEN = "hf_token_of_the_team"


@pytest_asyncio.fixture
async def credentials(
    control_plane: Kubernetes, kube_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubeCredentials]:
    """As an account of the namespace that may do nothing yet; there is a Secret `hub`."""
    inside = f"--namespace={kube_namespace}"
    control_plane.kubectl("create", "serviceaccount", "operator", inside)
    values = ("--from-literal=token=" + TOKEN, "--from-literal=blank= ")
    control_plane.kubectl("create", "secret", "generic", "hub", *values, inside)
    monkeypatch.setenv("KUBECONFIG", str(control_plane.account_kubeconfig(kube_namespace, "operator")))
    client = await KubeClient.connect()
    yield KubeCredentials(client)
    await client.close()


async def read(credentials: KubeCredentials, namespace: str, ref: str) -> str:
    """The token, or why there is none."""
    try:
        return await credentials.read(namespace, ref)
    except CredentialsError as error:
        return str(error)


async def test_a_token_is_read_once_the_namespace_lets_the_operator(
    control_plane: Kubernetes, kube_namespace: str, credentials: KubeCredentials
) -> None:
    refused = await read(credentials, kube_namespace, "hub/token")
    assert f"{kube_namespace} has no RoleBinding of the ClusterRole {ACCESS_ROLE}" in refused
    assert f"to the service account {kube_namespace}/operator" in refused

    inside, account = f"--namespace={kube_namespace}", f"--serviceaccount={kube_namespace}:operator"
    control_plane.kubectl("create", "role", "reads", "--verb=get", "--resource=secrets", inside)
    control_plane.kubectl("create", "rolebinding", "reads", "--role=reads", account, inside)
    deadline = time.monotonic() + 10
    while (token := await read(credentials, kube_namespace, "hub/token")) != TOKEN:
        assert time.monotonic() < deadline, token
        await asyncio.sleep(0.05)

    assert "has no key other; it has blank, token" in await read(credentials, kube_namespace, "hub/other")
    assert "the value is empty" in await read(credentials, kube_namespace, "hub/blank")
    assert "there is no Secret" in await read(credentials, kube_namespace, "missing/token")
    assert "has no RoleBinding" in await read(credentials, "default", "hub/token")
