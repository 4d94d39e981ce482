"""Renders the CustomResourceDefinitions from the models: `crds/` in the repository, `plinth crds` for users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from plinth.api.v1alpha1.gpupool import GPUPool
from plinth.api.v1alpha1.meta import GROUP, VERSION
from plinth.api.v1alpha1.modeldeployment import ModelDeployment
from plinth.api.v1alpha1.quotapolicy import QuotaPolicy
from plinth.api.v1alpha1.schema import structural_schema

Manifest = dict[str, Any]

_HEADER = "# Made from operator/plinth/api by `plinth crds`; edit the models there, not this file.\n"


def render_crds() -> dict[str, str]:
    """Each CRD as YAML, by file name."""
    return {f"{crd['metadata']['name']}.yaml": _HEADER + to_yaml(crd) for crd in make_crds()}


def write_crds(folder: Path) -> list[Path]:
    """Write the CRDs into a folder, made if need be; returns the files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in render_crds().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def make_crds() -> list[Manifest]:
    """The CRDs as objects."""
    return [make_gpupool_crd(), make_modeldeployment_crd(), make_quotapolicy_crd()]


def make_gpupool_crd() -> Manifest:
    """GPUPool: cluster-wide, as nodes are."""
    return _make_crd(
        names=_names("GPUPool", plural="gpupools", short="gpool"),
        scope="Cluster",
        schema=structural_schema(GPUPool),
        subresources={"status": {}},
        columns=[
            _column("Accelerator", "string", ".status.accelerator"),
            _column("Workers", "string", ".status.workers"),
            _column("GPUs", "integer", ".status.accelerators"),
            _column("Used", "integer", ".status.acceleratorsUsed"),
            _column("Reason", "string", ".status.reason"),
            _AGE,
        ],
    )


def make_modeldeployment_crd() -> Manifest:
    """ModelDeployment. `kubectl scale` sets the least number of replicas, and reads how many there are."""
    return _make_crd(
        names=_names("ModelDeployment", plural="modeldeployments", short="mdl"),
        scope="Namespaced",
        schema=structural_schema(ModelDeployment),
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.scaling.minReplicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        columns=[
            _column("Ready", "string", ".status.ready"),
            _column("Shape", "string", ".status.shape"),
            _column("GPUs", "integer", ".status.accelerators"),
            _column("Queue", "integer", ".status.queued"),
            _column("Cost/h", "string", ".status.costPerHour"),
            _column("Reason", "string", ".status.reason"),
            _AGE,
            # A column of a priority other than 0 is shown by `-o wide` only.
            _column("Priority", "integer", ".spec.priority") | {"priority": 1},
        ],
    )


def make_quotapolicy_crd() -> Manifest:
    """QuotaPolicy; the columns are what is asked most often of a key, all limits are in the status in words."""
    per_key = ".spec.limits.perKey"
    return _make_crd(
        names=_names("QuotaPolicy", plural="quotapolicies", short="qpol"),
        scope="Namespaced",
        schema=structural_schema(QuotaPolicy),
        subresources={"status": {}},
        columns=[
            _column("Keys", "integer", ".status.keys"),
            _column("Requests/min", "integer", f"{per_key}.requestsPerMinute"),
            _column("Tokens/min", "integer", f"{per_key}.totalTokensPerMinute"),
            _column("Concurrency", "integer", f"{per_key}.concurrency"),
            _column("Priority", "string", ".spec.priority"),
            _column("Reason", "string", ".status.reason"),
            _AGE,
        ],
    )


def _column(name: str, kind: str, path: str) -> Manifest:
    return {"name": name, "type": kind, "jsonPath": path}


_AGE = _column("Age", "date", ".metadata.creationTimestamp")


def _names(kind: str, *, plural: str, short: str) -> Manifest:
    return {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["plinth"],
    }


def _make_crd(
    *, names: Manifest, scope: str, schema: Manifest, subresources: Manifest, columns: list[Manifest]
) -> Manifest:
    for name in (
        "apiVersion",
        "kind",
    ):  # the API server sets and converts these; bounding them would break that
        schema["properties"][name] = {
            "description": schema["properties"][name]["description"],
            "type": "string",
        }
    # A new object must look unfinished to tools that compare generations before anyone has judged it.
    schema["properties"]["status"]["default"] = {"observedGeneration": -1}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": scope,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes out what YAML would otherwise shorten to an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def to_yaml(manifest: Manifest) -> str:
    """YAML in the order the manifest was made in."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
