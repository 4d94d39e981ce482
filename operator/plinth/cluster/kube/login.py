"""Where the API server is and who we are: the pod's service account, else the KUBECONFIG file.

The official client's own loaders read both (exec plugins, token files and all); nothing else of it is used, since its
typed models would take more memory than the whole rest of the operator.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.aio import config as loaders
from kubernetes.aio.client.configuration import Configuration

IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"


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
    configuration: Any

    async def headers(self) -> dict[str, str]:
        """Who we are; a service account's token is read again every minute, since Kubernetes rotates it."""
        try:
            settings = await self.configuration.auth_settings()
        except (OSError, loaders.ConfigException) as error:
            raise LoginError(f"the credentials cannot be read: {error}") from error
        token = settings.get("BearerToken", {}).get("value")
        return {"Authorization": token} if token else {}


async def find_login() -> Login:
    """The account of the pod we run in, else the current context of KUBECONFIG. Raises LoginError."""
    configuration = await _find_configuration()
    if not configuration.verify_ssl:
        raise LoginError(
            "the kubeconfig's insecure-skip-tls-verify must not be used: give certificate-authority-data instead"
        )
    return Login(
        server=configuration.host.rstrip("/"),
        ssl=_make_ssl(configuration) if configuration.host.startswith("https:") else None,
        server_name=configuration.tls_server_name,
        configuration=configuration,
    )


async def _find_configuration() -> Any:
    configuration = Configuration()
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    try:
        if os.environ.get(IN_CLUSTER_VARIABLE):
            loaders.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await loaders.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=path, client_configuration=configuration, persist_config=False
            )
    except (OSError, loaders.ConfigException, TypeError) as error:
        # TypeError: the loader's own answer to a file that is not there.
        raise LoginError(
            f"no cluster: not in a pod with a service account, and {path} cannot be used ({error}); "
            "set KUBECONFIG to a file with a current-context"
        ) from error
    return configuration


def _make_ssl(configuration: Any) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    except (OSError, ssl.SSLError) as error:
        raise LoginError(f"the cluster's certificates cannot be used: {error}") from error
    return context
