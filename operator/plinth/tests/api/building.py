"""Valid resources to change one thing in."""

from __future__ import annotations

import copy
from typing import Any

API = "plinth.dev/v1alpha1"


def model_document(name: str = "chat", /, **spec: Any) -> dict[str, Any]:
    """A ModelDeployment as YAML gives it; `spec` is laid over its spec."""
    given: dict[str, Any] = {"model": {"source": "hf://org/name"}} | copy.deepcopy(spec)
    return {"apiVersion": API, "kind": "ModelDeployment", "metadata": {"name": name}, "spec": given}


def policy_document(name: str = "standard", /, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "QuotaPolicy", "metadata": {"name": name}, "spec": spec}


def pool_document(name: str = "h200", /, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "GPUPool", "metadata": {"name": name}, "spec": spec}
