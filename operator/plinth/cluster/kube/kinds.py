"""The kinds of Kubernetes objects that Plinth reads or writes, and where the API serves each."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

GROUP, VERSION = "plinth.dev", "v1alpha1"
"""Those of `plinth.api`, which the gateway's agent must not load: it would bring pydantic."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind, as discovery would describe it."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What a manifest says as `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of a collection or, with a name, of one object; no namespace means all of them."""
        parts = ["apis" if self.group else "api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, quote(name, safe=""), subresource]
        return "/" + "/".join(part for part in parts if part)


GPU_POOL = Kind(group=GROUP, version=VERSION, plural="gpupools", kind="GPUPool", namespaced=False)
MODEL_DEPLOYMENT = Kind(group=GROUP, version=VERSION, plural="modeldeployments", kind="ModelDeployment")
QUOTA_POLICY = Kind(group=GROUP, version=VERSION, plural="quotapolicies", kind="QuotaPolicy")
RAY_CLUSTER = Kind(group="ray.io", version="v1", plural="rayclusters", kind="RayCluster")
ENDPOINT_SLICE = Kind(group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice")
POD = Kind(group="", version="v1", plural="pods", kind="Pod")
NODE = Kind(group="", version="v1", plural="nodes", kind="Node", namespaced=False)
SECRET = Kind(group="", version="v1", plural="secrets", kind="Secret")
SERVICE = Kind(group="", version="v1", plural="services", kind="Service")
CONFIG_MAP = Kind(group="", version="v1", plural="configmaps", kind="ConfigMap")
EVENT = Kind(group="events.k8s.io", version="v1", plural="events", kind="Event")
LEASE = Kind(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
VALIDATING_WEBHOOKS = Kind(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="validatingwebhookconfigurations",
    kind="ValidatingWebhookConfiguration",
    namespaced=False,
)
MUTATING_WEBHOOKS = Kind(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="mutatingwebhookconfigurations",
    kind="MutatingWebhookConfiguration",
    namespaced=False,
)
CRD = Kind(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
)
