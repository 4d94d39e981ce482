"""The page to try the API in a browser: one file, nothing loaded from elsewhere. Pure but for reading that file.

It is part of the package like the code; the process reads it when it is first asked for.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

Headers = list[tuple[bytes, bytes]]


@cache
def docs_page() -> tuple[Headers, bytes]:
    """Headers and body. The policy lets the page run its own script, and none that anybody slips in."""
    page = files(__package__).joinpath("docs.html").read_bytes()
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"script-src {_digest(page, b'script')}; style-src {_digest(page, b'style')}"
    )
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    return headers, page


def _digest(page: bytes, tag: bytes) -> str:
    """The only element of this kind, by its hash, as a content security policy names it."""
    found = re.search(rb"<%b>(.*)</%b>" % (tag, tag), page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no {tag.decode()}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1]).digest()).decode()}'"
