"""A partial pod template laid over a made one, as `kubectl patch` would (strategic merge), in plain dictionaries.

Mappings are merged key by key and null takes a key away. Lists whose entries have a name are merged entry by entry,
`$patch: delete` takes an entry away; every other list is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENTRY_NAMES = {
    "containers": "name",
    "initContainers": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
"""The key that names an entry of each list, as Kubernetes' own types have it."""
WHOLE_ENTRIES = frozenset({"env", "volumes"})
"""Their entries are replaced, not merged: a volume has one source, a variable one value."""
DELETE = ("$patch", "delete")


def lay_over(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """The base as the override would have it; entries that are new come last."""
    merged = dict(base)
    for key, value in override.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(key, merged.get(key), value)
    return merged


def _merged(key: str, base: Any, override: Any) -> Any:
    if isinstance(override, Mapping):
        return lay_over(base if isinstance(base, Mapping) else {}, override)
    name = ENTRY_NAMES.get(key)
    if name is None or not isinstance(override, list):
        return override
    return _merged_entries(key, name, base if isinstance(base, list) else [], override)


def _merged_entries(key: str, name: str, base: list[Any], override: list[Any]) -> list[Any]:
    entries: dict[Any, Any] = {_name_of(entry, name): entry for entry in base}
    for entry in override:
        named = _name_of(entry, name)
        if isinstance(entry, Mapping) and entry.get(DELETE[0]) == DELETE[1]:
            entries.pop(named, None)
        elif key in WHOLE_ENTRIES or not isinstance(entry, Mapping):
            entries[named] = entry
        else:
            entries[named] = lay_over(entries.get(named, {}), entry)
    return list(entries.values())


def _name_of(entry: Any, name: str) -> Any:
    """What names the entry; one without a name stands for itself, and Kubernetes will say what it lacks."""
    return entry[name] if isinstance(entry, Mapping) and name in entry else repr(entry)
