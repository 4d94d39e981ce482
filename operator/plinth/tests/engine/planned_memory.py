"""What the planner expects SmolLM2 to take of a machine without accelerators, from its file alone."""

from plinth.api.v1alpha1 import Task
from plinth.cluster.artifacts import read_artifact
from plinth.domain.accelerators.catalogue import CATALOGUE, CPU
from plinth.domain.fleet import Artifact, Engine
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.reading import read_model
from plinth.domain.sizing.memory import MemoryPlan, plan_memory
from plinth.domain.sizing.request import Load, Place, SizingRequest
from plinth.domain.sizing.shape import Shape
from plinth.domain.workload import as_loaded
from plinth.engine.local_sources import SourcePlaces
from plinth.tests.engine.serving import SMOLLM2

TOLERANCE = 0.03
"""How far the plan may be off."""


def plan_smollm2(engine: Engine, *, memory_bytes: int, context_tokens: int, concurrency: int) -> MemoryPlan:
    """Its plan for a replica that is given so much memory."""
    artifact = read_artifact(SMOLLM2, None, places=SourcePlaces())
    assert isinstance(artifact, Artifact)
    model = read_model(artifact.config, format=artifact.format, tensors=artifact.tensors)
    assert isinstance(model, ModelArchitecture)
    request = SizingRequest(
        model=as_loaded(model, artifact.format, Task.GENERATE, engine),
        place=Place(
            accelerator=next(each for each in CATALOGUE if each.name == CPU),
            accelerators_per_node=1,
            memory_bytes=memory_bytes,
            utilization_percent=100,
        ),
        load=Load(concurrency=concurrency, input_tokens=1, output_tokens=1, context_tokens=context_tokens),
        engine=engine,
    )
    return plan_memory(request, Shape())
