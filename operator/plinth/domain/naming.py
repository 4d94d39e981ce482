"""Who answers to which served name.

A model is always asked for as `namespace/name`, and by `spec.servedName` or else its own name. Where two want one
name, the one seen first keeps it; the other is not accepted (`NameCollision`) and not started. What already runs of
it goes on under `namespace/name` alone, so an edit that collides cuts nobody off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from plinth.domain.fleet import Model, ModelKey


@dataclass(frozen=True, kw_only=True)
class ServedNames:
    """The names one model answers to, and why it did not get the one it wants."""

    names: tuple[str, ...]
    """The first is the one listed."""
    collision: str = ""


def wanted_name(model: Model) -> str:
    """The name the spec asks for."""
    return model.resource.spec.served_name or model.key.name


class NameMemory:
    """The names given before, for as long as all models ask for what they asked for."""

    def __init__(self) -> None:
        self._asked: list[tuple[ModelKey, float, str | None]] = []
        self._names: dict[ModelKey, ServedNames] = {}

    def resolve(self, models: Collection[Model]) -> Mapping[ModelKey, ServedNames]:
        """As `resolve_names` has them."""
        asked = [(each.key, each.first_seen, each.resource.spec.served_name) for each in models]
        if asked != self._asked:
            self._asked, self._names = asked, resolve_names(models)
        return self._names


def resolve_names(models: Iterable[Model]) -> dict[ModelKey, ServedNames]:
    """Every model's names. `namespace/name` of another model can never be taken."""
    in_order = sorted(models, key=lambda model: (model.first_seen, model.key))
    taken = {str(model.key): model.key for model in in_order}
    resolved: dict[ModelKey, ServedNames] = {}
    for model in in_order:
        name = wanted_name(model)
        holder = taken.setdefault(name, model.key)
        own = str(model.key)
        if holder == model.key:
            resolved[model.key] = ServedNames(names=(name, own) if name != own else (own,))
        else:
            message = f"{holder} already answers to the name {name}; give this model another spec.servedName"
            resolved[model.key] = ServedNames(names=(own,), collision=message)
    return resolved
