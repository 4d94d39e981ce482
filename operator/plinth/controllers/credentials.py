"""Hands replicas the token that their model's source asks for, where it must not lie in a file of their machine."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from plinth.cluster.credentials import CredentialsError
from plinth.controllers.ports import Ports
from plinth.domain.fleet import Slot, SlotName

log = logging.getLogger("plinth.cycle")


async def deliver_credentials(slots: Iterable[Slot], waiting: Collection[SlotName], ports: Ports) -> None:
    """Read and deliver what the waiting replicas ask for. One that is not delivered is asked about again."""
    if ports.credentials is None or not waiting:
        return
    for slot in slots:
        if slot.name not in waiting or slot.spec is None or slot.spec.credentials is None:
            continue
        try:
            token = await ports.credentials.read(slot.name.model.namespace, slot.spec.credentials)
        except CredentialsError as error:
            log.warning("%s waits for credentials: %s", slot.name, error)
            continue
        await ports.replicas.deliver(slot.host or "", slot.port or 0, str(slot.name), token)
