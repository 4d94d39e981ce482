"""Rules of a GPUPool: what labels look like, whom a pool serves, how its workers are described.

Of all fields only `namespace` cannot be edited. The pool's Ray lives there, with that namespace's secrets and
volumes; moving it would cut every replica off from its models at once. Whatever else is edited rolls out: models
by a new revision, pools by a second RayCluster.
"""

from __future__ import annotations

from plinth.api.v1alpha1.rule import Rule, Shown, Transition, cel_text, matches

_LABEL_KEY = r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9][-_.A-Za-z0-9]{0,62}$"
_LABEL_VALUE = r"^[A-Za-z0-9]?[-_.A-Za-z0-9]{0,62}$"
_NAMESPACE = "__namespace__"
"""How Kubernetes calls the field in CEL, where `namespace` is a reserved word."""


def _told_apart(field: str, key: str, attribute: str, items: str) -> Rule:
    """The API server checks this by itself, by the list's keys; said here for files, and for all in one sentence."""
    return Rule(
        field=field,
        must=f"must have a {key} of its own for each entry",
        cel=f"!has(self.{field}) || self.{field}.all(a, self.{field}.exists_one(b, b.{key} == a.{key}))",
        holds=lambda model: (
            len({getattr(item, key) for item in getattr(model, attribute)}) == len(getattr(model, attribute))
        ),
        remedy=f"merge the {items} of one {key} into one, or rename one of them",
    )


GPU_POOL = (
    Rule(
        field="nodeSelector",
        must="must hold label names and values of at most 63 letters, digits, '-', '_' and '.'",
        cel=(
            f"!has(self.nodeSelector) || self.nodeSelector.all(key, key.matches({cel_text(_LABEL_KEY)})"
            f" && self.nodeSelector[key].matches({cel_text(_LABEL_VALUE)}))"
        ),
        holds=lambda model: all(
            matches(_LABEL_KEY, key) and matches(_LABEL_VALUE, value)
            for key, value in model.node_selector.items()
        ),
        remedy=(
            "write them as `kubectl get nodes --show-labels` shows them (without Kubernetes: as `ray list nodes"
            " --detail` does), as in zone: rack-7"
        ),
    ),
    Rule(
        field="trustRemoteCode",
        must="must be Forbidden unless spec.namespace is set",
        cel=f"self.trustRemoteCode == 'Forbidden' || has(self.{_NAMESPACE})",
        holds=lambda model: model.trust_remote_code == "Forbidden" or model.namespace is not None,
        remedy=(
            "set spec.namespace to the one namespace whose models may run code of their own: such code can read"
            " all that shares its Ray"
        ),
        shown=Shown.TEXT,
    ),
    _told_apart("acceleratorTypes", "name", "accelerator_types", "figures"),
    Rule(
        field="volumes",
        must="must be empty unless spec.namespace is set",
        cel=f"!has(self.volumes) || self.volumes.size() == 0 || has(self.{_NAMESPACE})",
        holds=lambda model: not model.volumes or model.namespace is not None,
        remedy="set spec.namespace to the namespace that the claims are in: only its models may read them",
    ),
    _told_apart("nodeTypes", "name", "node_types", "types"),
    _told_apart("volumes", "claim", "volumes", "volumes"),
)

POOL_TRANSITIONS = (
    Transition(
        field="namespace",
        must="must stay as it was made",
        cel=(
            f"has(self.{_NAMESPACE}) == has(oldSelf.{_NAMESPACE})"
            f" && (!has(self.{_NAMESPACE}) || self.{_NAMESPACE} == oldSelf.{_NAMESPACE})"
        ),
        holds=lambda new, old: new.namespace == old.namespace,
        remedy=(
            "make a second GPUPool for the other namespace, move the models by their spec.pool, then delete this one"
        ),
    ),
)


WORKERS = (
    Rule(
        field="min",
        must="must be at most max",
        cel="!has(self.max) || self.min <= self.max",
        holds=lambda model: model.max is None or model.min <= model.max,
        remedy=lambda model: f"set max to {model.min} or more, or min to {model.max} or less",
        cel_remedy="set max to %d or more, or min to %d or less",
        cel_values=("self.min", "self.max"),
        shown=Shown.NUMBER,
    ),
)

NODE_TYPE = (
    Rule(
        field="acceleratorMemoryMib",
        must="must be set where accelerators is more than 0, and only there",
        cel="(self.accelerators > 0) == (self.acceleratorMemoryMib > 0)",
        holds=lambda model: (model.accelerators > 0) == (model.accelerator_memory_mib > 0),
        remedy="write the memory of one accelerator in MiB, as `nvidia-smi` shows it: 143771 for an H200",
    ),
)

TOLERATION = (
    Rule(
        field="value",
        must="must be absent with operator Exists",
        cel="self.operator != 'Exists' || !has(self.value)",
        holds=lambda model: model.operator != "Exists" or model.value is None,
        remedy="remove it, or set operator to Equal",
        shown=Shown.TEXT,
    ),
    Rule(
        field="key",
        must="must be set with operator Equal",
        cel="self.operator != 'Equal' || has(self.key)",
        holds=lambda model: model.operator != "Equal" or model.key is not None,
        remedy="write the taint's key, or set operator to Exists to tolerate every taint",
    ),
)
