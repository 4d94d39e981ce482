"""The API group `plinth.dev/v1alpha1`: the one source of truth for CRDs, validation and documentation."""

from plinth.api.v1alpha1.errors import FieldError, InvalidResourceError
from plinth.api.v1alpha1.gpupool import GPUPool, GPUPoolSpec, GPUPoolStatus
from plinth.api.v1alpha1.meta import API_VERSION, GROUP, VERSION, Condition, ObjectMeta, ResourceKey
from plinth.api.v1alpha1.model_traffic import Adapter, Routing, RoutingStrategy, Traffic
from plinth.api.v1alpha1.modeldeployment import (
    EngineChoice,
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    Objectives,
    Parallelism,
    Progress,
    Rollout,
    Scaling,
    Task,
)
from plinth.api.v1alpha1.quotapolicy import QuotaPolicy, QuotaPolicySpec, QuotaPolicyStatus
from plinth.api.v1alpha1.reasons import CONDITION_SENTENCES, SENTENCES, ConditionType, Reason
from plinth.api.v1alpha1.resources import KINDS, AnyResource, parse_resource

__all__ = [
    "API_VERSION",
    "CONDITION_SENTENCES",
    "GROUP",
    "KINDS",
    "SENTENCES",
    "VERSION",
    "Adapter",
    "AnyResource",
    "Condition",
    "ConditionType",
    "EngineChoice",
    "FieldError",
    "GPUPool",
    "GPUPoolSpec",
    "GPUPoolStatus",
    "InvalidResourceError",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "ObjectMeta",
    "Objectives",
    "Parallelism",
    "Progress",
    "QuotaPolicy",
    "QuotaPolicySpec",
    "QuotaPolicyStatus",
    "Reason",
    "ResourceKey",
    "Rollout",
    "Routing",
    "RoutingStrategy",
    "Scaling",
    "Task",
    "Traffic",
    "parse_resource",
]
