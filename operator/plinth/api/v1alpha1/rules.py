"""The rules that span fields, in one table that both sides read.

Python checks `holds` when a model is made; the CRD carries `cel`, which the API server checks. A test runs
both over the same resources, so that a file that `plinth up` takes is one that `kubectl apply` takes, and what is
refused is refused in the same words.

A rule belongs to the model class whose name it is filed under and blames one field of it.
"""

from __future__ import annotations

from plinth.api.v1alpha1.model_rules import (
    ENGINE,
    MODEL_DEPLOYMENT,
    MODEL_SOURCE,
    OBJECTIVES,
    SCALING,
    SOURCE,
)
from plinth.api.v1alpha1.pool_rules import GPU_POOL, NODE_TYPE, POOL_TRANSITIONS, TOLERATION, WORKERS
from plinth.api.v1alpha1.quota_rules import ALLOWANCE, QUOTA_POLICY
from plinth.api.v1alpha1.rule import Rule, Transition
from plinth.api.v1alpha1.traffic_rules import MODEL_TRAFFIC, NOT_OF_ITSELF

RULES: dict[str, tuple[Rule, ...]] = {
    "ModelSource": MODEL_SOURCE,
    "Adapter": SOURCE,
    "EngineSpec": ENGINE,
    "Objectives": OBJECTIVES,
    "Scaling": SCALING,
    "ModelDeploymentSpec": (*MODEL_DEPLOYMENT, *MODEL_TRAFFIC),
    "ModelDeployment": NOT_OF_ITSELF,
    "GPUPoolSpec": GPU_POOL,
    "Workers": WORKERS,
    "NodeType": NODE_TYPE,
    "Toleration": TOLERATION,
    "Allowance": ALLOWANCE,
    "QuotaPolicySpec": QUOTA_POLICY,
}
"""By the name of the model class, so that this module needs none of them."""

TRANSITIONS: dict[str, tuple[Transition, ...]] = {"GPUPoolSpec": POOL_TRANSITIONS}
"""What an edit may not do, likewise. A folder knows no edits, so only the API server and admission ask."""
