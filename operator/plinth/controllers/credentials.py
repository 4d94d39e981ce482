"""Hands replicas the token that their model's source asks for, where it must not lie in a file of their machine."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from plinth.cluster.credentials import CredentialsError
from plinth.controllers.ports import Ports
from plinth.controllers.replica_reports import ReplicaReports
from plinth.domain.fleet import Slot

log = logging.getLogger("plinth.cycle")


async def deliver_credentials(slots: Iterable[Slot], replicas: ReplicaReports, ports: Ports) -> None:
    """Read and deliver what the waiting replicas ask for. One that is not delivered is asked about again."""
    replicas.troubles = {name: why for name, why in replicas.troubles.items() if name in replicas.waiting}
    if ports.credentials is None or not replicas.waiting:
        return
    for slot in slots:
        if slot.name not in replicas.waiting or slot.spec is None or slot.spec.credentials is None:
            continue
        try:
            token = await ports.credentials.read(slot.name.model.namespace, slot.spec.credentials)
        except CredentialsError as error:
            if replicas.troubles.get(slot.name) != str(error):
                log.warning("%s waits for credentials: %s", slot.name, error)
            replicas.troubles[slot.name] = str(error)
            continue
        await ports.replicas.deliver(slot.host or "", slot.port or 0, str(slot.name), token)
