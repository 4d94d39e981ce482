"""Where plans are asked for: `POST /plan`, on loopback in the operator's pod and on a socket of the owner's in `plinth up`.

Whoever gets there may ask: in a cluster that is who may forward a port to the pod, on one machine the user. It changes
nothing. The body is JSON of `resources`, as they would be applied, and of `pool`, where all models are to ask for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from plinth.api.v1alpha1 import GPUPool, InvalidResourceError, ModelDeployment, parse_resource
from plinth.controllers.what_if import BadQuestion, NotNow, Supposed, WhatIfs
from plinth.runtime.plan_client import PATH

LOOPBACK = "127.0.0.1"
MOST_BYTES = 4 << 20
MOST_RESOURCES = 1000


class PlanServer:
    """Nothing but a form for WhatIfs."""

    def __init__(self, what_ifs: WhatIfs) -> None:
        self._what_ifs = what_ifs
        app = web.Application(client_max_size=MOST_BYTES)
        app.add_routes([web.post(PATH, self._answer)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self.port = 0
        """Where it listens, once it does on a port."""

    async def start_on_port(self, port: int) -> None:
        """Listen on loopback, on any free port for 0. Raises OSError."""
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, port).start()
        self.port = self._runner.addresses[0][1]

    async def start_on_socket(self, path: str) -> None:
        """Listen on a socket in a folder that only its owner may enter. Raises OSError."""
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        # No page in a browser may send this type to another site's address without asking first.
        if request.content_type != "application/json":
            return _refuse(415, "ask with application/json")
        try:
            supposed = read_question(await request.json())
            return web.json_response(await self._what_ifs.answer(supposed))
        except (BadQuestion, json.JSONDecodeError, UnicodeDecodeError) as error:
            return _refuse(422, str(error))
        except NotNow as error:
            return _refuse(503, str(error))


def read_question(body: Any) -> Supposed:
    """What a body asks. Raises BadQuestion."""
    if not isinstance(body, Mapping) or not isinstance(body.get("resources"), list):
        raise BadQuestion("ask with {resources: [...], pool: NAME}")
    if len(body["resources"]) > MOST_RESOURCES:
        raise BadQuestion(f"at most {MOST_RESOURCES} resources can be asked about at once")
    pool = body.get("pool")
    if not (pool is None or isinstance(pool, str)):
        raise BadQuestion("pool must be a name")
    if not all(isinstance(each, Mapping) for each in body["resources"]):
        raise BadQuestion("each of the resources must be an object")
    try:
        resources = [parse_resource(each) for each in body["resources"]]
    except InvalidResourceError as error:
        raise BadQuestion("\n".join(map(str, error.errors))) from None
    once = {each.key: each for each in resources}.values()
    return Supposed(
        pools=tuple(each for each in once if isinstance(each, GPUPool)),
        models=tuple(each for each in once if isinstance(each, ModelDeployment)),
        pool=pool,
    )


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
