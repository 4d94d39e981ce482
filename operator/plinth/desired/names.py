"""Every name that is written at Ray or in a status, in one place."""

from __future__ import annotations

from plinth.domain.fleet import ModelKey, SlotName
from plinth.domain.sizing.shape import Shape

DEPLOYMENT = "replica"
"""The one deployment of every slot's application."""
IMPORT_PATH = "plinth.engine.app:build"
NODE_ID_LABEL = "ray.io/node-id"
MODEL_LABEL = "plinth.dev/model"


def application_name(slot: SlotName) -> str:
    """The Serve application of a slot."""
    return str(slot)


def route_prefix(slot: SlotName) -> str:
    """The path under which a slot answers."""
    return f"/{slot}"


def replica_selector(key: ModelKey) -> str:
    """What the scale subresource says of a model's replicas."""
    return f"{MODEL_LABEL}={key.namespace}.{key.name}"


def shape_name(replicas: int, shape: Shape) -> str:
    """Replicas times parallelism: `2xTP4`, `1xTP8xPP2`."""
    return f"{replicas}x{shape}".replace(" ", "")
