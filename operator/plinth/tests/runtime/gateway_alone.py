"""A gateway in this process that nobody has told anything yet: no routes, nobody to admit."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from plinth.gateway.access.callers import Caller
from plinth.gateway.access.terms import Terms
from plinth.gateway.options import Options
from plinth.gateway.server.process import GatewayProcess
from plinth.tests.gateway.harness import SECRET


@asynccontextmanager
async def gateway_alone(folder: Path) -> AsyncIterator[GatewayProcess]:
    """Its control socket is `g.sock` in the folder."""
    options = Options(host="127.0.0.1", port=0, control=folder / "g.sock", secret_file=folder / "secret")
    gateway = GatewayProcess(options, SECRET)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.close()


def terms_of(gateway: GatewayProcess, secret: str, model: str) -> Terms | None:
    """What the gateway holds whoever shows this secret to (empty: none); None where it may not ask for the model."""
    gate = gateway.core.gate
    found = gate.admit(b"Bearer " + secret.encode() if secret else b"", b"", time.time()) if gate else None
    return found.terms(model) if isinstance(found, Caller) else None
