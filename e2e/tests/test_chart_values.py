"""The chart's values: each one changes what is installed, and a wrong one is refused before anything is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from chart import Values, render, render_text
from kube.installation import CHART, HelmError

pytestmark = pytest.mark.kube

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
# What must be on before a value has an effect.
NEEDED: dict[str, Values] = {
    "redis": {"redis": {"enabled": True}},
    "redis.enabled": {},
    "redis.address": {},
    "redis.passwordSecret": {"redis": {"address": "redis.example:6379"}},
    "redis.storage.className": {"redis": {"enabled": True, "storage": {"size": "1Gi"}}},
    "gateway.redis.address": {},
    "gateway.redis": {"gateway": {"redis": {"address": "redis.example:6379"}}},
    **{
        f"gateway.redis.tls.{name}": {
            "gateway": {"redis": {"address": "redis.example:6379", "tls": {"enabled": True}}}
        }
        for name in ("authoritySecret", "certificateSecret")
    },
    "gateway.cache.shared": {"redis": {"enabled": True}},
    "monitoring.serviceMonitor": {"monitoring": {"serviceMonitor": {"enabled": True}}},
    "monitoring.serviceMonitor.enabled": {},
    "monitoring.dashboard": {"monitoring": {"dashboard": {"enabled": True}}},
    "monitoring.dashboard.enabled": {},
    "monitoring.alerts": {"monitoring": {"alerts": {"enabled": True}}},
    "monitoring.alerts.enabled": {},
}
# Another value than the default, where none can be made up from the default alone.
OTHERS: dict[str, Any] = {
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "operator.logLevel": "debug",
    "operator.logFormat": "text",
    "gateway.service.type": "NodePort",
    "gateway.service.annotations": {"a": "b"},
    "gateway.args": ["--queue-requests=5"],
    "namespaces": ["team-a"],
    "redis.address": "redis.example:6379",
    "gateway.redis.address": "redis.example:6379",
    "networkPolicy.clients": [{"podSelector": {}}],
    "networkPolicy.monitoring": [{"podSelector": {}}],
    "monitoring.serviceMonitor.interval": "7s",
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "podSecurityContext": {"runAsUser": 7},
    **{f"{part}.nodeSelector": {"a": "b"} for part in ("operator", "gateway")},
    **{f"{part}.tolerations": [{"operator": "Exists"}] for part in ("operator", "gateway")},
    **{
        f"{part}": {"requests": {"cpu": "7m"}}
        for part in ("operator.resources", "gateway.resources", "gateway.agentResources", "redis.resources")
    },
    **{f"monitoring.{part}.labels": {"a": "b"} for part in ("serviceMonitor", "dashboard", "alerts")},
}


def value_paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that can be set on its own, with its default."""
    for name, value in values.items():
        path = prefix + name
        if isinstance(value, Mapping) and path not in OTHERS:
            yield from value_paths(value, path + ".")
        else:
            yield path, value


def another(path: str, default: Any) -> Any:
    """A value that is not the default."""
    if path in OTHERS:
        return OTHERS[path]
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int) else f"{default or '7'}0"


def needed_for(path: str) -> Values:
    """The longest entry of NEEDED that the path begins with."""
    found = [name for name in NEEDED if path == name or path.startswith(name + ".")]
    return NEEDED[max(found, key=len)] if found else {}


def with_value(values: Values, path: str, value: Any) -> dict[str, Any]:
    """The values with one more set."""
    changed = copy.deepcopy(dict(values))
    *parents, last = path.split(".")
    place = changed
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return changed


def without_random(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects without what is made at random for each rendering."""
    return [each | {"data": sorted(each["data"])} if each["kind"] == "Secret" else each for each in manifests]


@pytest.mark.parametrize(("path", "default"), [*value_paths(DEFAULTS)])
def test_every_value_changes_what_is_installed(path: str, default: Any) -> None:
    before = needed_for(path)
    after = with_value(before, path, another(path, default))
    assert without_random(render(after)) != without_random(render(before))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gateway": {"replica": 3}}, "'replica' not allowed"),
        ({"gateway": {"replicas": "3"}}, "got string, want integer"),
        ({"gateway": {"replicas": 0}}, "minimum: got 0, want 1"),
        ({"gateway": {"args": ["queue-requests"]}}, "does not match pattern"),
        ({"operator": {"logLevel": "Info"}}, "value must be one of"),
        ({"namespaces": ["Team A"]}, "does not match pattern"),
        ({"redis": {"address": "redis"}}, "does not match pattern"),
        ({"redis": {"address": "redis:6379", "enabled": True}}, "redis.enabled must be false where"),
        ({"gateway": {"workers": 0}}, "gateway/workers"),
        ({"gateway": {"redis": {"address": "redis://redis:6379"}}}, "does not match pattern"),
        ({"gateway": {"cache": {"shared": True}}}, "gateway.cache.shared must be false where there is no"),
        ({"gateway": {"redis": {"tls": {"enabled": True}}}}, "must be false without gateway.redis.address"),
        ({"keys": {"namespace": "plinth-system"}}, "keys.namespace must be a namespace of its own"),
        ({"networkPolicy": {"clients": [{"pods": {}}]}}, "'pods' not allowed"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(values: Values, said: str) -> None:
    with pytest.raises(HelmError) as refused:
        render_text(values)
    assert said in str(refused.value)
