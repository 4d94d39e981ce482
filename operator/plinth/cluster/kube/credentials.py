"""Reads the Secrets that models name, each time anew and from the API server alone; nothing of them is kept here."""

from __future__ import annotations

import base64
import binascii
import re

from plinth.cluster.credentials import CredentialsError
from plinth.cluster.kube.client import SECRET, KubeAway, KubeClient, KubeRefused

ACCESS_ROLE = "plinth-namespace-access"
"""The chart's ClusterRole of all that Plinth may do in a team's namespace."""
FORBIDDEN = 403
_ACCOUNT = re.compile(r"system:serviceaccount:(?P<namespace>[-a-z0-9]+):(?P<name>[-.a-z0-9]+)")


class KubeCredentials:
    """The adapter behind the cycle's `Credentials` port."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def read(self, namespace: str, ref: str) -> str:
        """The value of `name/key` in the namespace, without white space around it. Raises CredentialsError."""
        name, _, key = ref.partition("/")
        where = f"Secret {namespace}/{name}"
        try:
            secret = await self._client.get(SECRET, namespace, name)
        except KubeRefused as refusal:
            raise CredentialsError(_explain(refusal, namespace, where)) from None
        except KubeAway:
            raise CredentialsError(f"{where}: the API server does not answer; it is asked again") from None
        if secret is None:
            raise CredentialsError(f"there is no {where}; create it with the key {key}")
        data = secret.get("data") or {}
        if key not in data:
            have = ", ".join(sorted(data)) or "no keys"
            raise CredentialsError(f"{where} has no key {key}; it has {have}")
        return _decode(data[key], f"{where}, key {key}")


def _decode(encoded: str, where: str) -> str:
    try:
        value = base64.b64decode(encoded or "").decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        raise CredentialsError(f"{where}: the value must be text") from None
    if not value:
        raise CredentialsError(f"{where}: the value is empty; put the token there")
    return value


def _explain(refusal: KubeRefused, namespace: str, where: str) -> str:
    if refusal.status != FORBIDDEN:
        return f"{where} cannot be read: {refusal.reason}"
    account = _ACCOUNT.search(refusal.message)
    whose = f"the service account {account['namespace']}/{account['name']}" if account else "Plinth's account"
    return (
        f"{where} may not be read: {namespace} has no RoleBinding of the ClusterRole {ACCESS_ROLE} to {whose}; "
        f"the chart makes it for each namespace that its value `namespaces` lists"
    )
