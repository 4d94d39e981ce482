"""The operator without Ray: a process whose cycle finds no capacity and no gateway, for tests of all that is around it.

Run by the tests as `python operator_plumbing.py NAMESPACE PORT`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kopf
from kube.access import Kubernetes
from kube.processes import find_free_ports, wait_until

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.cluster.capacity import CapacityObservation
from plinth.controllers.ports import Ports, ResourceStore
from plinth.desired.ray_pods import RaySettings
from plinth.domain.fleet import Artifact, ArtifactRefusal, EngineReport, PoolPlan
from plinth.domain.traffic import LoadReport, RouteTable
from plinth.runtime.json_logs import set_up_logs
from plinth.runtime.operator import run_operator
from plinth.runtime.operator_options import OperatorOptions
from plinth.runtime.operator_process import Replica

ROOT = Path(__file__).parents[2]
NO_RAY = "there is no Ray here: nobody can ask for this"


class NoRay:
    """All ports but the store: nothing is there, and nothing can be done."""

    webhook_server = None

    def __init__(self, _replica: Replica) -> None:
        self._version = 0

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return

    def register(self, _registry: kopf.OperatorRegistry) -> None:
        return

    @asynccontextmanager
    async def open_ports(self, store: ResourceStore) -> AsyncIterator[Ports]:
        yield Ports(store=store, capacity=self, replicas=self, gateway=self, models=self)

    async def observe(self) -> CapacityObservation:
        return CapacityObservation(rays=())

    async def apply(self, ray: str, config: Mapping[str, Any]) -> None:
        raise AssertionError(NO_RAY)

    async def read_log(self, ray: str, actor_id: str, *, lines: int) -> str:
        raise AssertionError(NO_RAY)

    async def resize(self, plans: Sequence[PoolPlan], pools: Sequence[GPUPool]) -> bool:
        return False

    async def report(self, host: str, port: int, slot: str) -> EngineReport | None:
        raise AssertionError(NO_RAY)

    async def deliver(self, host: str, port: int, slot: str, token: str) -> bool:
        raise AssertionError(NO_RAY)

    def latest_report(self) -> tuple[LoadReport, float] | None:
        return None

    def send(self, table: RouteTable, *, unknown: frozenset[str] = frozenset()) -> int:
        return self._version

    def read(self, model: ModelDeployment) -> Artifact | ArtifactRefusal | None:
        return None

    def forget_all_but(self, models: Iterable[ModelDeployment]) -> None:
        return


class OperatorUnderTest:
    """One replica as a process."""

    def __init__(self, cluster: Kubernetes, namespace: str, folder: Path, name: str) -> None:
        (self.port,) = find_free_ports(1)
        self.log = folder / f"{name}.log"
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "POD_NAME": name}
        environment["PYTHONPATH"] = f"{ROOT / 'operator'}:{ROOT / 'e2e'}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, namespace, str(self.port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def probe(self, path: str) -> int:
        """The status of one of the probes; 0 where nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, pattern: str) -> float:
        """The sum of all series that match."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))

    @property
    def leads(self) -> bool:
        return self.probe("/readyz") == 200 and self.metric("plinth_leader ") == 1

    def writes(self, verbs: str = "PATCH|POST|DELETE") -> float:
        """How many writes it has sent, renewals of its Lease (PUT) aside."""
        return self.metric(rf'plinth_kubernetes_requests_total{{.*verb="({verbs})"')

    def wait(self, condition: Callable[[], bool], *, seconds: float, what: str) -> float:
        """Wait until it is so; returns how long that took."""
        started = time.monotonic()
        try:
            wait_until(condition, seconds=seconds, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log.read_text()[-4000:]}") from None
        return time.monotonic() - started

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        """SIGTERM, as kubelet sends it; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def main() -> None:
    namespace, port = sys.argv[1:]
    set_up_logs("json", "info")
    options = OperatorOptions(
        namespace=namespace,
        keys_namespace=namespace,
        ray=RaySettings(namespace=namespace, image="none", ray_version="2.57.0"),
        host="127.0.0.1",
        metrics_port=int(port),
        secret_file=Path(os.devnull),
        token_file=Path(os.devnull),
    )
    asyncio.run(run_operator(options, NoRay))


if __name__ == "__main__":
    main()
