"""What one replica of the operator is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plinth.desired.key_secrets import KEYS_NAMESPACE
from plinth.desired.ray_pods import RaySettings

LEASE_NAME = "plinth-operator"


@dataclass(frozen=True, kw_only=True)
class OperatorOptions:
    """One replica."""

    namespace: str
    """Where Plinth is installed: its Lease, its Secrets, the RayClusters of shared pools."""
    ray: RaySettings
    keys_namespace: str = KEYS_NAMESPACE
    """Where the Secrets of API keys are."""
    host: str | None = None
    """Where to listen; None for all addresses."""
    metrics_port: int = 8080
    webhook_port: int = 9443
    plan_port: int = 8085
    """On loopback only: for who may forward a port to the pod."""
    secret_file: Path
    """The secret that engines and inspectors ask for."""
    token_file: Path
    """The token that gateways' agents ask for."""
