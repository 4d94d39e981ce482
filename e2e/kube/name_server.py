"""The cluster's DNS: CoreDNS beside the control plane, so that no node's loss takes it away."""

from __future__ import annotations

from kube.control_plane import ControlPlane
from kube.processes import Process

USER = "system:name-server"
CONFIGURATION = """
.:53 {{
  bind {address}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig}
    ttl 1
  }}
}}
"""

MAY_READ = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": USER},
    "rules": [
        {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": USER},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
}


def start_name_server(control_plane: ControlPlane) -> Process:
    """Start it on the control plane's address."""
    control_plane.apply(MAY_READ, BINDING)
    kubeconfig = control_plane.user_kubeconfig(USER)
    configuration = control_plane.run.path / "Corefile"
    configuration.write_text(
        CONFIGURATION.format(address=control_plane.endpoint.address, kubeconfig=kubeconfig)
    )
    process = control_plane.process("coredns", "-conf", configuration)
    process.start()
    return process
