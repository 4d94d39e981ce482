"""A real control plane: etcd, kube-apiserver and, where asked for, the controller manager and the scheduler.

On loopback it needs no rights; a `Cluster` starts one inside its network. etcd and the API server can be stopped,
killed and started again one by one, so that tests show what happens while they are away.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kube.access import Kubernetes, write_kubeconfig
from kube.authority import Authority, KeyPair, make_signing_key
from kube.binaries import find_program
from kube.probes import answers
from kube.processes import Process, find_free_ports
from kube.run_folder import RunFolder

READY_SECONDS = 60.0
MASTERS = "system:masters"


@dataclass(frozen=True)
class Endpoint:
    """Where the API server listens, and the network that it hands service addresses out of."""

    address: str = "127.0.0.1"
    services: str = "10.99.0.0/16"
    first_service: str = "10.99.0.1"
    """The address of the service `kubernetes`: the first of the network."""
    enter: tuple[str, ...] = ()
    """Put before each command: what enters the network where the address is."""
    has_nodes: bool = False


class ControlPlane(Kubernetes):
    """An API server of one's own, with its etcd."""

    def __init__(self, run: RunFolder, endpoint: Endpoint | None = None) -> None:
        """Lay out keys and commands; nothing runs before `start`."""
        super().__init__(run.path / "admin.kubeconfig", run.path)
        self.run = run
        self.endpoint = endpoint or Endpoint()
        etcd_port, self.port = find_free_ports(2)
        self.authority = Authority(run.path / "pki")
        self._accounts = make_signing_key(self.authority.folder, "service-accounts")
        self.etcd = self.process("etcd", *self._etcd_flags(etcd_port))
        self.api_server = self.process("kube-apiserver", *self._api_server_flags(etcd_port))
        self.user_kubeconfig("admin", groups=[MASTERS])
        self._tls = ssl.create_default_context(cafile=self.authority.certificate)

    @property
    def url(self) -> str:
        return f"https://{self.endpoint.address}:{self.port}"

    def start(self) -> None:
        """Start etcd and the API server; returns when it answers."""
        self.etcd.start()
        self.api_server.start()
        self.wait_ready()

    def wait_ready(self, *, seconds: float = READY_SECONDS) -> None:
        """Wait until the API server says that it is ready."""
        self.api_server.wait(self.is_ready, seconds=seconds, what="the API server is ready")

    def is_ready(self) -> bool:
        """Whether the API server answers and has its etcd."""
        return answers(f"{self.url}/readyz", tls=self._tls)

    def start_controller_manager(self) -> Process:
        """Start what fills namespaces, collects garbage and makes pods of Deployments and Jobs."""
        kubeconfig = self.user_kubeconfig("system:kube-controller-manager")
        flags = [
            f"--kubeconfig={kubeconfig}",
            f"--root-ca-file={self.authority.certificate}",
            f"--service-account-private-key-file={self._accounts.key}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--concurrent-gc-syncs=4",
        ]
        return self._start("kube-controller-manager", *flags)

    def start_scheduler(self) -> Process:
        """Start what gives pods their nodes."""
        kubeconfig = self.user_kubeconfig("system:kube-scheduler")
        return self._start(
            "kube-scheduler", f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"
        )

    def user_kubeconfig(self, user: str, *, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig that speaks as a user, by a certificate."""
        pair = self.authority.issue(user, groups=groups)
        path = self.folder / f"{pair.certificate.stem}.kubeconfig"
        write_kubeconfig(
            path,
            {"server": self.url, "certificate-authority": str(self.authority.certificate)},
            {"client-certificate": str(pair.certificate), "client-key": str(pair.key)},
        )
        return path

    def process(self, program: str, *flags: str | Path, name: str = "") -> Process:
        """A program in the control plane's network, not started yet."""
        return self.run.process(name or program, [*self.endpoint.enter, find_program(program), *flags])

    def _start(self, program: str, *flags: str) -> Process:
        process = self.process(program, *flags)
        process.start()
        return process

    def _etcd_flags(self, port: int) -> list[str]:
        url = f"http://127.0.0.1:{port}"
        return [
            f"--data-dir={self.run.path / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",  # what is lost when the machine fails is of no use then
        ]

    def _api_server_flags(self, etcd_port: int) -> list[str]:
        serving = self._issue_serving_certificate()
        kubelets = self.authority.issue("kube-apiserver", groups=[MASTERS], file="kubelet-client")
        flags = {
            "etcd-servers": f"http://127.0.0.1:{etcd_port}",
            "bind-address": self.endpoint.address,
            "advertise-address": self.endpoint.address,
            "secure-port": self.port,
            "service-cluster-ip-range": self.endpoint.services,
            "tls-cert-file": serving.certificate,
            "tls-private-key-file": serving.key,
            "client-ca-file": self.authority.certificate,
            "kubelet-certificate-authority": self.authority.certificate,
            "kubelet-client-certificate": kubelets.certificate,
            "kubelet-client-key": kubelets.key,
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": self._accounts.certificate,
            "service-account-signing-key-file": self._accounts.key,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
        }
        if not self.endpoint.has_nodes:  # nothing makes the accounts that pods would be refused without
            flags["disable-admission-plugins"] = "ServiceAccount"
        return [f"--{flag}={value}" for flag, value in flags.items()]

    def _issue_serving_certificate(self) -> KeyPair:
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        addresses = {"127.0.0.1", self.endpoint.address, self.endpoint.first_service}
        return self.authority.issue(
            "kube-apiserver", addresses=[*names, *sorted(addresses)], file="kube-apiserver"
        )
