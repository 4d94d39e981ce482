"""One node: containerd, kubelet and kube-proxy in a box of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kube.authority import KeyPair
from kube.binaries import find_program
from kube.box import Box
from kube.cgroups import make_cgroups
from kube.control_plane import ControlPlane
from kube.images import PAUSE
from kube.lan import Lan
from kube.processes import Process

START_SECONDS = 30.0
SOCKET = "/run/containerd/containerd.sock"
NETWORK_PLUGINS = Path("/usr/lib/cni")
NETWORK_CONFIGURATIONS = "/run/cni"

CONTAINERD = f"""
version = 2
[plugins."io.containerd.internal.v1.opt"]
path = "/run/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true  # where the machine does not let its root raise it, runc fails without
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{NETWORK_PLUGINS}"
conf_dir = "{NETWORK_CONFIGURATIONS}"
"""


class Node:
    """A node of a cluster, by its number in the cluster's network."""

    def __init__(self, control_plane: ControlPlane, lan: Lan, box: Box, number: int) -> None:
        """Lay out its configuration; nothing runs before `start`."""
        self.name = box.name
        self.box = box
        self.number = number
        self._lan = lan
        self._control_plane = control_plane
        self._started = datetime.max.replace(tzinfo=UTC)
        self._cgroup = f"plinth-{control_plane.run.path.name}-{box.name}"

    @property
    def address(self) -> str:
        return self._lan.node_address(self.number)

    def start(self, images: Path, *, labels: Mapping[str, str]) -> None:
        """Start containerd, give it the images, then the kubelet and kube-proxy; does not wait for Ready."""
        self._started = datetime.now(UTC).replace(microsecond=0)
        run = self._control_plane.run
        for cgroup in make_cgroups(self._cgroup):
            run.record_cgroup(cgroup)
        containerd = self._process("containerd", "--config", self._write("containerd.toml", CONTAINERD))
        containerd.start()
        containerd.wait(
            self._has_containerd, seconds=START_SECONDS, what=f"containerd of {self.name} answers"
        )
        self.box.call(find_program("ctr"), "--namespace=k8s.io", "images", "import", images)
        network = self._write("pods.conflist", json.dumps(self._pod_network()))
        self.box.call("install", "-D", network, f"{NETWORK_CONFIGURATIONS}/{network.name}")
        self._kubelet(labels).start()
        self._proxy().start()

    def is_ready(self) -> bool:
        """Whether the kubelet that was started here has told the API server that the node is ready."""
        found = self._control_plane.list("nodes", f"--field-selector=metadata.name={self.name}")
        conditions = [condition for node in found for condition in node["status"].get("conditions", [])]
        ready = [each for each in conditions if each["type"] == "Ready" and each["status"] == "True"]
        return any(datetime.fromisoformat(each["lastHeartbeatTime"]) >= self._started for each in ready)

    def _has_containerd(self) -> bool:
        try:
            self.box.call(find_program("ctr"), "version")
        except RuntimeError:
            return False
        return True

    def _kubelet(self, labels: Mapping[str, str]) -> Process:
        user = f"system:node:{self.name}"
        kubeconfig = self._control_plane.user_kubeconfig(user, groups=["system:nodes"])
        serving = self._control_plane.authority.issue(
            user, groups=["system:nodes"], addresses=[self.name, self.address], file=f"{self.name}-kubelet"
        )
        config = self._write("kubelet.yaml", yaml.safe_dump(self._kubelet_configuration(serving)))
        return self._process(
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--node-labels={','.join(f'{key}={value}' for key, value in labels.items())}",
        )

    def _kubelet_configuration(self, serving: KeyPair) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(self._control_plane.authority.certificate)},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": [],
            "volumePluginDir": "/run/volume-plugins",
            "resolvConf": "",
            "clusterDNS": [self._lan.node_address(1)],
            "clusterDomain": "cluster.local",
            "failSwapOn": False,
            # The machine's disk and memory are others' concern: no pod shall be evicted for them.
            "evictionHard": {
                "imagefs.available": "1%",
                "nodefs.available": "1%",
                "memory.available": "100Mi",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }

    def _proxy(self) -> Process:
        kubeconfig = self._control_plane.user_kubeconfig("system:kube-proxy")
        return self._process(
            "kube-proxy",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--cluster-cidr={self._lan.pods}",
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",  # the kernel has one limit for the whole machine
        )

    def _pod_network(self) -> dict[str, Any]:
        """Each pod on a link of its own, not on a bridge: all its traffic passes the node's address translation."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": self._lan.node_pods(self.number)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        plugins = [
            {"type": "ptp", "ipMasq": False, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}

    def _process(self, program: str, *flags: str | Path) -> Process:
        command = [*self.box.enter, find_program(program), *flags]
        return self._control_plane.run.process(f"{self.name}-{program}", command)

    def _write(self, name: str, content: str) -> Path:
        path = self.box.folder / name
        path.write_text(content)
        return path
