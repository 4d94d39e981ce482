"""The API's description of itself: the OpenAPI document, and the page to try it in a browser."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from plinth import __version__
from plinth.gateway.surface.docs_page import Headers, docs_page
from plinth.gateway.surface.openapi import make_document

_JSON: Headers = [(b"content-type", b"application/json")]


def surface_answers(path: str, models: Mapping[str, str]) -> tuple[int, Headers, bytes] | None:
    """Status, headers and body; None for a path that is not one of these.

    Args:
        path: the endpoint's.
        models: the task of each model that the caller may ask, by the name it is listed under. Neither path needs a
            key: where models do, a caller without one is shown none.
    """
    if path == "/openapi.json":
        return 200, _JSON, msgspec.json.encode(make_document(models, __version__))
    if path == "/docs":
        headers, page = docs_page()
        return 200, headers, page
    return None
