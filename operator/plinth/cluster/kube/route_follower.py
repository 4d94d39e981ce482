"""A gateway's route table, followed from EndpointSlices: the heart of the agent beside each gateway.

Its version is the marker's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from plinth.cluster.kube.client import ENDPOINT_SLICE, KubeClient
from plinth.cluster.kube.reflector import Reflector
from plinth.cluster.kube.table_following import Following, load_table, save_table
from plinth.desired.endpoint_slices import SELECTOR
from plinth.desired.slice_reading import route_table
from plinth.domain.control_lines import encode_table
from plinth.domain.traffic import RouteTable

MOST_REASONS_LOGGED = 20

log = logging.getLogger(__name__)


class RouteFollower:
    """Hands over each new table; the saved one first."""

    def __init__(
        self,
        client: KubeClient,
        *,
        release_namespace: str,
        table_file: Path,
        hand_over: Callable[[RouteTable], None],
    ) -> None:
        self._release_namespace = release_namespace
        self._file = table_file
        self._hand_over = hand_over
        self._following = Following(self._look)
        self._slices = Reflector(client, ENDPOINT_SLICE, labels=SELECTOR, on_change=self._following.notice)
        self._table = RouteTable(version=0, models=())
        self._passed_over: tuple[str, ...] = ()

    def start(self) -> None:
        """Hand over the saved table, if there is one, and follow the slices."""
        saved = load_table(self._file, RouteTable)
        if saved is not None:
            self._table = saved
            self._hand_over(saved)
        self._following.start(self._slices)

    async def close(self) -> None:
        """End following."""
        await self._following.close()

    def _look(self) -> None:
        found = route_table(self._slices.items.values(), release_namespace=self._release_namespace)
        if found.passed_over != self._passed_over:
            self._passed_over = found.passed_over
            for reason in found.passed_over[:MOST_REASONS_LOGGED]:
                log.warning("not used: %s", reason)
        # Without a marker (somebody deleted it, or the first one is still to come) routes are a table all the same.
        version = found.table.version or self._table.version or (1 if found.table.models else 0)
        table = RouteTable(version=version, models=found.table.models)
        if table != self._table:
            self._table = table
            self._hand_over(table)
            save_table(self._file, encode_table(table))
