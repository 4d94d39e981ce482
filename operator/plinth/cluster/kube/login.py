"""Where the API server is and who we are: the pod's service account, else the KUBECONFIG file.

A service account is an address, a certificate and a token in a file; that much is read here, so that a process in a pod
loads nothing for it. A kubeconfig may say far more (exec plugins, client certificates); see `kubeconfig`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

HOST_VARIABLE, PORT_VARIABLE = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class LoginError(Exception):
    """There is no cluster to be found, or no safe way to speak to it."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """One API server and the credentials for it."""

    server: str
    ssl: ssl.SSLContext | None
    """None for a plain `http://` server, which only a test has."""
    server_name: str | None
    """The name that the server's certificate must carry, where it differs from the address."""
    headers: Callable[[], Awaitable[Mapping[str, str]]]
    """Who we are, read again for each call since Kubernetes rotates it. Raises LoginError."""


async def find_login() -> Login:
    """The account of the pod we run in, else the current context of KUBECONFIG. Raises LoginError."""
    if os.environ.get(HOST_VARIABLE):
        return account_login(ACCOUNT_FOLDER)
    # Here, since the official loader takes more memory than a small process like the gateway's agent has in all.
    from plinth.cluster.kube.kubeconfig import kubeconfig_login  # noqa: PLC0415 - see above

    return await kubeconfig_login()


def account_login(folder: Path) -> Login:
    """The login of a service account. Raises LoginError."""
    host, port = os.environ[HOST_VARIABLE], os.environ.get(PORT_VARIABLE) or "443"

    async def headers() -> Mapping[str, str]:
        try:
            token = (folder / "token").read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise LoginError(f"the service account's token cannot be read: {error}") from error
        return {"Authorization": f"Bearer {token}"}

    return Login(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ssl=make_ssl(str(folder / "ca.crt")),
        server_name=None,
        headers=headers,
    )


def make_ssl(
    authority: str | None, *, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """TLS that verifies the API server, with a certificate of ours where the login has one. Raises LoginError."""
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate:
            context.load_cert_chain(certificate, keyfile=key)
    except (OSError, ssl.SSLError) as error:
        raise LoginError(f"the cluster's certificates cannot be used: {error}") from error
    return context
