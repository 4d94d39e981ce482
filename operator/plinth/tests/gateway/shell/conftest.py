"""A replica and a gateway before it for the tests of a module; a module that needs them otherwise makes its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plinth.tests.gateway.shell.rig import Gateway, Replica, gateway, replica


@pytest.fixture(scope="module")
def backend() -> Iterator[Replica]:
    with replica() as found:
        yield found


@pytest.fixture(scope="module")
def served(backend: Replica, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), backend.port) as found:
        yield found
