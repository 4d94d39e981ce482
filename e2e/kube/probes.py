"""Whether something answers HTTP, asked from this machine."""

from __future__ import annotations

import ssl
import urllib.request

PROBE_SECONDS = 2.0


def answers(url: str, *, tls: ssl.SSLContext | None = None) -> bool:
    """Whether the address answers with success, and soon."""
    try:
        with urllib.request.urlopen(url, context=tls, timeout=PROBE_SECONDS) as answer:  # noqa: S310 - URLs of ours
            return bool(answer.status == 200)
    except OSError:
        return False
