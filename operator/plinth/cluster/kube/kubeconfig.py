"""The login that a KUBECONFIG file gives, read by the official client's own loader: exec plugins, token files and all.

Nothing else of that client is used, since its typed models would take more memory than the whole rest of the operator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes.aio import config as loaders

from plinth.cluster.kube.login import Login, LoginError, make_ssl


async def kubeconfig_login() -> Login:
    """The current context of KUBECONFIG. Raises LoginError."""
    configuration = await _read_configuration()
    if not configuration.verify_ssl:
        raise LoginError(
            "the kubeconfig's insecure-skip-tls-verify must not be used: give certificate-authority-data instead"
        )

    async def headers() -> Mapping[str, str]:
        try:
            settings = await configuration.auth_settings()
        except (OSError, loaders.ConfigException) as error:
            raise LoginError(f"the credentials cannot be read: {error}") from error
        values = [each["value"] for each in settings.values() if each["value"]]
        return {"Authorization": values[0]} if values else {}

    is_tls = configuration.host.startswith("https:")
    certificate, key = configuration.cert_file, configuration.key_file
    return Login(
        server=configuration.host.rstrip("/"),
        ssl=make_ssl(configuration.ssl_ca_cert, certificate=certificate, key=key) if is_tls else None,
        server_name=configuration.tls_server_name,
        headers=headers,
    )


async def _read_configuration() -> Any:
    # Made without the class's own call, which would copy a process-wide default.
    configuration = type.__call__(loaders.incluster_config.Configuration)  # type: ignore[attr-defined]
    path = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    try:
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
