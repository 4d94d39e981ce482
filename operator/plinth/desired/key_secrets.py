"""Keys as Secrets of a cluster: what `kubectl plinth keys` writes and every gateway's agent reads.

All stand in one namespace that holds nothing else, so that whoever may read it reads no other Secret; and only who may
write there makes keys, whatever namespace they are for. They hold digests, never what opens the API.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from plinth.domain.keys import StoredKey

KEYS_NAMESPACE = "plinth-keys"
KEYS_LABEL = "plinth.dev/keys"
FORMAT = "v1"
SELECTOR = f"{KEYS_LABEL}={FORMAT}"
"""Selects every Secret of this module."""
TENANT_LABEL = "plinth.dev/tenant"
TYPE = "plinth.dev/api-key"
FIELD = "key.json"

_DECODER = msgspec.json.Decoder(StoredKey)


class KeySecretError(ValueError):
    """A Secret that carries the label and does not hold a key; the text says what is wrong with it."""


def secret_name(tenant: str, name: str) -> str:
    """Both are DNS labels, which have no dot."""
    return f"{tenant}.{name}"


def tenant_selector(tenant: str) -> str:
    """Selects the keys of one tenant; of all, if it is empty."""
    return f"{SELECTOR},{TENANT_LABEL}={tenant}" if tenant else SELECTOR


def make_secret(key: StoredKey, *, namespace: str, version: str = "") -> dict[str, Any]:
    """The Secret of a key; with a resource version, one that replaces just that version."""
    metadata = {
        "name": secret_name(key.tenant, key.name),
        "namespace": namespace,
        "labels": {KEYS_LABEL: FORMAT, TENANT_LABEL: key.tenant},
    }
    document = base64.b64encode(msgspec.json.encode(key)).decode()
    return {
        "metadata": metadata | ({"resourceVersion": version} if version else {}),
        "type": TYPE,
        "data": {FIELD: document},
    }


def read_secret(secret: Mapping[str, Any]) -> StoredKey:
    """The key in a Secret. Raises KeySecretError.

    Its own words on name and tenant must be those of the Secret, which the API server holds to be unique.
    """
    name = secret["metadata"]["name"]
    try:
        key = _DECODER.decode(base64.b64decode(secret["data"][FIELD], validate=True))
    except (KeyError, TypeError, ValueError) as error:
        raise KeySecretError(f"Secret {name} holds no key: {error!r}") from error
    if secret_name(key.tenant, key.name) != name:
        raise KeySecretError(f"Secret {name} holds the key {key.name} of {key.tenant}")
    return key
