"""Keeps the admission server's certificate current: every replica reads it, the leader renews it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from plinth.cluster.kube.certificate_rotation import WebhookCertificates
from plinth.cluster.kube.certificates import Pair
from plinth.cluster.kube.errors import KubeAway, KubeRefused, NotLeaderError

LOOK_SECONDS = 15.0
"""How soon a bundle that somebody else overwrote is mended, and how much later than the others one replica may
serve a new certificate; a quarter of the time that API servers are given to see a new authority."""
FIRST_LOOK_SECONDS = 1.0
"""The same until there is a certificate at all."""

_log = logging.getLogger(__name__)


async def keep_certificates(
    certificates: WebhookCertificates, *, is_leader: Callable[[], bool], use: Callable[[Pair], None]
) -> None:
    """For ever: renew what is due if this process leads, then hand what is to be served to `use`."""
    served = False
    while True:
        try:
            if is_leader():
                await certificates.advance(time.time())
            pair = await certificates.load()
            if pair is not None:
                use(pair)
                served = True
        except (KubeAway, KubeRefused) as error:
            _log.warning("webhook certificates: %s; what is served stays", error)
        except NotLeaderError:
            _log.info("webhook certificates: another replica leads now")
        await asyncio.sleep(LOOK_SECONDS if served else FIRST_LOOK_SECONDS)
