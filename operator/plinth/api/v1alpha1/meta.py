"""What every resource shares: Kubernetes metadata, conditions, and the strict base model.

Field names are camelCase on the wire and snake_case in Python; an unknown field is an error, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

GROUP = "plinth.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "plinth.dev/v1alpha1"

DnsLabel = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)
]


class Resource(BaseModel):
    """Base of every part of a resource: strict, frozen, camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class ObjectMeta(BaseModel):
    """The part of Kubernetes' ObjectMeta that Plinth reads; the rest is kept as it came."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    name: DnsLabel
    namespace: DnsLabel = "default"
    generation: int = 1
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Condition(Resource):
    """One aspect of a resource's state, by Kubernetes' API conventions."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: str
    """RFC 3339; moves only when the status flips."""
    observed_generation: int
