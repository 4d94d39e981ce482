"""What the Serve config's `import_path` names: one replica as a Ray Serve application with direct ingress.

Ray pickles a deployment's class, and what is bound to it, into the cluster; so nothing but plain values is bound,
and the ASGI app is built inside the replica (`__serve_build_asgi_app__`), where the engine will live.
"""

from __future__ import annotations

from typing import Any

import msgspec
from ray import serve

from plinth.engine.further_nodes import find_place
from plinth.engine.isolation import bind_grpc_to_loopback
from plinth.engine.seam import ASGIApp
from plinth.engine.slot import ReplicaArgs, make_gate

DEPLOYMENT = "replica"
"""The deployment's name in the Serve config."""


class ReplicaIngress:
    """The deployment: its constructor only keeps what it was told, so that Ray sees a running replica at once."""

    def __init__(self, args: bytes) -> None:
        self._args = msgspec.json.decode(args, type=ReplicaArgs)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Ray Serve serves, built once in the replica's own process."""
        bind_grpc_to_loopback()
        return make_gate(self._args, find_place(self._args))


def build(args: dict[str, Any]) -> serve.Application:
    """The application of one slot; `args` is a `ReplicaArgs` as JSON.

    Raises:
        msgspec.ValidationError: a field is missing or of the wrong type; Ray shows it as the deployment's error.
    """
    checked = msgspec.convert(args, type=ReplicaArgs)
    deployment = serve.deployment(name=DEPLOYMENT)(serve.ingress()(ReplicaIngress))
    return deployment.bind(msgspec.json.encode(checked))
