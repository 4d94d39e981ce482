"""The API group `plinth.dev/v1alpha1`: the one source of truth for CRDs, validation and documentation."""

from plinth.api.v1alpha1.gpupool import GPUPool, GPUPoolSpec, GPUPoolStatus
from plinth.api.v1alpha1.meta import API_VERSION, GROUP, VERSION, Condition, ObjectMeta
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
from plinth.api.v1alpha1.reasons import SENTENCES, ConditionType, Reason

__all__ = [
    "API_VERSION",
    "GROUP",
    "SENTENCES",
    "VERSION",
    "Condition",
    "ConditionType",
    "EngineChoice",
    "GPUPool",
    "GPUPoolSpec",
    "GPUPoolStatus",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "ObjectMeta",
    "Objectives",
    "Parallelism",
    "Progress",
    "Reason",
    "Rollout",
    "Scaling",
    "Task",
]
