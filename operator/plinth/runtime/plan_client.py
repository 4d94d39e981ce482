"""Asks a live fleet what it would make of resources: the other end of `plan_server`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from plinth.api.v1alpha1 import AnyResource

PATH = "/plan"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 180.0
"""For reading models and for planning, of a large fleet too."""
_UNAVAILABLE, _WRONG, _OK = 503, 422, 200


class PlanRefused(Exception):  # noqa: N818 - an answer, which the person reads
    """The fleet does not plan for this, in its own words."""


class PlanUnavailable(Exception):  # noqa: N818 - a state of the world, which another replica may not be in
    """Nobody answers there, or not now."""


def ask_at(address: str, resources: Sequence[AnyResource], pool: str | None) -> dict[str, Any]:
    """The document of a what-if, asked of a URL. Raises PlanRefused, PlanUnavailable."""
    return asyncio.run(_ask(address, None, resources, pool))


def ask_on(socket: Path, resources: Sequence[AnyResource], pool: str | None) -> dict[str, Any]:
    """The document of a what-if, asked on a socket. Raises PlanRefused, PlanUnavailable."""
    return asyncio.run(_ask("http://plinth", socket, resources, pool))


async def _ask(
    address: str, socket: Path | None, resources: Sequence[AnyResource], pool: str | None
) -> dict[str, Any]:
    question = {"resources": [_manifest(each) for each in resources], "pool": pool}
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
    connector = aiohttp.UnixConnector(str(socket)) if socket else aiohttp.TCPConnector()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            session.post(address + PATH, json=question) as response,
        ):
            if response.status == _OK:
                document: dict[str, Any] = await response.json()
                return document
            why = _message_of(await response.text())
            if response.status == _WRONG:
                raise PlanRefused(why)
            raise PlanUnavailable(why)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise PlanUnavailable(str(error) or f"no answer within {ANSWER_SECONDS:.0f} s") from error


def _manifest(resource: AnyResource) -> dict[str, Any]:
    """As it was written, so that what was left out is the other end's to fill in."""
    written = resource.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    return {"apiVersion": resource.api_version, "kind": resource.kind, **written}


def _message_of(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.strip()
