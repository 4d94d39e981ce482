"""What the OpenAPI document says is what a gateway with real engines does: schemathesis tries it, operation by operation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from served_gateway import ROOT, served_gateway

from plinth.gateway.surface.operations import OPERATIONS

CLIENTS = ROOT / "e2e" / "clients"
PROGRAM = ROOT / ".venv-clients" / "bin" / "schemathesis"
EXAMPLES = os.environ.get("EXAMPLES", "4")
"""Made up for each operation, beside the fixed ones at the borders of what its schemas allow."""

pytestmark = [pytest.mark.process, pytest.mark.timeout(3600)]


def test_nothing_is_found_that_the_document_does_not_say(tmp_path: Path) -> None:
    assert PROGRAM.exists(), "the clients' environment is missing: bash e2e/clients/setup.sh .venv-clients"
    with served_gateway(tmp_path) as served:
        done = subprocess.run(
            [
                *(PROGRAM, "--no-color", "--config-file", CLIENTS / "schemathesis.toml"),
                *("run", f"{served.url}/openapi.json", "--header", f"Authorization: Bearer {served.key}"),
                *("--max-examples", EXAMPLES, "--workers", "2", "--warnings", "off"),
            ],
            env=served.environment() | {"SCHEMATHESIS_HOOKS": str(CLIENTS / "few_tokens.py")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tried = len(OPERATIONS) - 1  # all but the one that gives it the document
    assert f"{tried} selected / {tried} total" in done.stdout
