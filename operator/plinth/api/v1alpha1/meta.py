"""What every resource shares: Kubernetes metadata, conditions, and the strict base models.

Field names are camelCase on the wire and snake_case in Python. In what users write, an unknown field is an
error, never ignored; a null is the same as absence, as in Kubernetes. In what Plinth writes (statuses), an
unknown field is ignored, so that an older Plinth reads a newer one's status, and text is cut to its bound
rather than refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, Self

from annotated_types import Len, MaxLen
from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from plinth.api.v1alpha1.rules import RULES

GROUP = "plinth.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "plinth.dev/v1alpha1"

Int = Annotated[int, Strict()]
"""A whole number written as one: `"3"`, `3.0` and `true` are refused, as the CRD refuses them."""

DnsLabel = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)
]
DecimalString = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$", max_length=16)]


@dataclass(frozen=True, order=True)
class ResourceKey:
    """What names a resource; the namespace is empty for a cluster-wide kind."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def without_nulls(data: Any) -> Any:
    """The mapping without its null entries (`scaling:` with nothing under it); anything else as it came."""
    if isinstance(data, Mapping):
        return {key: value for key, value in data.items() if value is not None}
    return data


class Resource(BaseModel):
    """Base of every part of a resource: strict, frozen, camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return without_nulls(data)

    @model_validator(mode="after")
    def _hold_rules(self) -> Self:
        broken = [rule for rule in RULES.get(type(self).__name__, ()) if not rule.holds(self)]
        if broken:
            details = [
                {"field": rule.field, "rule": rule.must, "remedy": rule.remedy_for(self)} for rule in broken
            ]
            text = "; ".join(f"{rule.field} {rule.must}" for rule in broken)
            raise PydanticCustomError("plinth_rule", "{text}", {"text": text, "details": details})
        return self


class Observed(Resource):
    """Base of what Plinth reports: unknown fields are ignored, long text and lists are cut to their bounds."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _cut(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        fitted = dict(data)
        for key, limit in _limits(cls).items():
            if key in fitted:
                fitted[key] = _fit(fitted[key], limit)
        return fitted


TEXT_LIMIT = 1024
"""Characters of one sentence in a list of a status."""


@cache
def _limits(kind: type[BaseModel]) -> Mapping[str, int | None]:
    """The longest that each field may be, under both of its names."""
    named = [
        (name, field.alias or name, _max_length(field.metadata)) for name, field in kind.model_fields.items()
    ]
    return {key: limit for name, alias, limit in named for key in (name, alias)}


def _max_length(metadata: list[Any]) -> int | None:
    for constraint in metadata:
        if isinstance(constraint, MaxLen | Len | StringConstraints):
            return constraint.max_length
    return None


def _fit(value: Any, limit: int | None) -> Any:
    if isinstance(value, str):
        return value if limit is None or len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, list | tuple):
        return [_fit(item, TEXT_LIMIT) for item in value[:limit]]
    return value


class ObjectMeta(BaseModel):
    """The part of Kubernetes' ObjectMeta that Plinth reads; the rest is kept as it came."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        frozen=True,
        use_attribute_docstrings=True,
    )

    name: DnsLabel
    """Name of the resource, unique among its kind in its namespace."""
    namespace: DnsLabel = "default"
    """Namespace of the resource; without meaning for a cluster-wide kind."""
    generation: Int = 1
    """Counts the changes of the spec; set by Kubernetes, or by Plinth for a folder, never by hand."""
    deletion_timestamp: str = ""
    """When Kubernetes was asked to delete it; empty for what is to stay."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels to select the resource by."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Notes for people and tools; Plinth does not read them."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return without_nulls(data)


class Condition(Observed):
    """One aspect of a resource's state, by Kubernetes' API conventions."""

    type: str = Field(max_length=316)
    """The aspect, as in `Ready`."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(max_length=1024)
    """Why, as one word to act on."""
    message: str = Field(max_length=32_768)
    """Why, in full, for people."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """RFC 3339; moves only when the status flips."""
    observed_generation: Int
    """The generation of the spec that this was judged by."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
