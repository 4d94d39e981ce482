"""Admission as it runs in a cluster: the operator's webhook server beside a real API server, and the chart's webhooks.

Everything is the product's own but the fleet, which a test makes up: no nodes are needed to be told that none has
16 accelerators.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import kopf
import yaml
from chart import find, render
from kube.access import Kubernetes

from plinth.cluster.kube.certificate_rotation import WebhookCertificates
from plinth.cluster.kube.certificates import Pair, make_pair
from plinth.cluster.kube.client import KubeClient
from plinth.domain.fleet import FleetSnapshot
from plinth.runtime.admission_certificates import keep_certificates
from plinth.runtime.admission_handlers import register_admission
from plinth.runtime.admission_server import AdmissionServer

HOST = "127.0.0.1"
NAMESPACE = "plinth-system"
START_SECONDS = 30.0
LAST_WORDS_SECONDS = 0.2
"""How long TLS connections take to say goodbye."""
WEBHOOKS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")


class Admission:
    """The part of the operator that answers API servers, in a thread with a loop of its own."""

    def __init__(
        self,
        cluster: Kubernetes,
        fleet: FleetSnapshot,
        *,
        make: Callable[[Iterable[str], float], Pair] = make_pair,
    ) -> None:
        """`KUBECONFIG` must name the cluster: that is where the operator looks."""
        self.fleet = fleet
        self.asked = 0
        """How often the fleet was looked at: once for each edit that came to be judged."""
        self.port = 0
        self._make = make
        self._cluster = cluster
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._listening = threading.Event()

    def start(self) -> None:
        """Serve; returns when it listens."""
        self._thread.start()
        if not self._listening.wait(START_SECONDS):
            raise TimeoutError("the webhook server does not listen")

    def stop(self) -> None:
        """End it; the webhooks stay installed and lead nowhere."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_SECONDS)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = AdmissionServer(host=HOST, port=0)
        client = await KubeClient.connect()
        certificates = WebhookCertificates(client, namespace=NAMESPACE, names=[HOST], make=self._make)
        keeping = asyncio.create_task(keep_certificates(certificates, is_leader=lambda: True, use=server.use))
        telling = asyncio.create_task(self._tell(server))
        await self._operate(server)  # until `stop`
        for task in (keeping, telling):
            task.cancel()
        await asyncio.gather(keeping, telling, return_exceptions=True)
        await client.close()
        await asyncio.sleep(LAST_WORDS_SECONDS)

    async def _operate(self, server: AdmissionServer) -> None:
        registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
        settings.admission.server = server
        settings.posting.enabled = False
        register_admission(registry, self._look)

        async def login(**_: Any) -> kopf.ConnectionInfo:
            return _login(self._cluster)

        kopf.on.login(registry=registry)(login)
        await kopf.operator(
            registry=registry, settings=settings, standalone=True, clusterwide=True, stop_flag=self._stop
        )

    async def _tell(self, server: AdmissionServer) -> None:
        await server.listening.wait()
        self.port = server.port
        self._listening.set()

    def _look(self) -> FleetSnapshot:
        self.asked += 1
        return self.fleet


def install_webhooks(cluster: Kubernetes, port: int) -> None:
    """Apply the chart's webhooks, leading to a port of this machine and not to a service in the cluster."""
    for webhooks in chart_webhooks():
        for each in webhooks["webhooks"]:
            path = each["clientConfig"]["service"]["path"]
            each["clientConfig"] = {"url": f"https://{HOST}:{port}{path}"}
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(webhooks))


def chart_webhooks() -> Iterable[dict[str, Any]]:
    """The two webhook configurations that the chart installs."""
    manifests = render({})
    return [deepcopy(find(manifests, kind, "plinth")) for kind in WEBHOOKS]


def wait_trusted(cluster: Kubernetes, *, seconds: float = START_SECONDS) -> None:
    """Wait until the operator has put its authority into both webhook configurations."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = [cluster.get(kind, "plinth") for kind in WEBHOOKS]
        if all("caBundle" in each["webhooks"][0]["clientConfig"] for each in found):
            return
        time.sleep(0.1)
    raise TimeoutError("no authority was published")


def _login(cluster: Kubernetes) -> kopf.ConnectionInfo:
    config = yaml.safe_load(cluster.kubeconfig.read_text(encoding="utf-8"))
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return kopf.ConnectionInfo(
        server=server["server"],
        ca_path=server.get("certificate-authority"),
        certificate_path=user.get("client-certificate"),
        private_key_path=user.get("client-key"),
    )
