"""Where API servers ask: TLS on one port, served by every replica of the operator, whoever leads.

kopf calls the server with the function that turns a review into an answer. The chart holds the webhook
configurations, so kopf manages none. Until there is a certificate nothing listens, and API servers go on without an
answer, as they do whenever none comes in time: their failure policy is to ignore that.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import msgspec
from aiohttp import web
from kopf import WebhookClientConfig, WebhookFn

from plinth.cluster.kube.certificates import Pair

PORT = 9443
MOST_BYTES = 7 << 20
"""An API server takes objects of up to 3 MiB, and sends the new one with the old one."""
ANSWER_SECONDS = 2.5
"""Below the webhooks' timeoutSeconds of 3: an answer after that is read by nobody."""
FAULT_OF_OURS = 500
"""The code that kopf gives to a refusal that is an exception of the handler; refusals that are meant have 422."""


class AdmissionServer:
    """One port, for kopf's `settings.admission.server`. A new certificate is for the connections to come."""

    def __init__(self, *, host: str | None = None, port: int = PORT) -> None:
        """Listen on all addresses unless `host` says otherwise; port 0 picks a free one, see `port`."""
        self._host = host
        self.port = port
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._pair: Pair | None = None
        self._has_certificate = asyncio.Event()
        self.listening = asyncio.Event()

    def use(self, pair: Pair) -> None:
        """Serve this certificate from the next connection on; those that are open go on as they are."""
        if pair == self._pair:
            return
        load_pair(self._tls, pair)
        self._pair = pair
        self._has_certificate.set()

    async def __call__(self, review: WebhookFn) -> AsyncIterator[WebhookClientConfig]:
        """Serve until closed; kopf is given no client configuration, as it manages none."""
        await self._has_certificate.wait()
        app = web.Application(client_max_size=MOST_BYTES)
        app.add_routes([web.post("/{webhook:validate|mutate}", _Answers(review).answer)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self.port, ssl_context=self._tls)
            await site.start()
            self.port = runner.addresses[0][1]
            self.listening.set()
            yield WebhookClientConfig()
            await asyncio.Event().wait()
        finally:
            self.listening.clear()
            await runner.cleanup()


class _Answers:
    """From a request to an answer."""

    def __init__(self, review: WebhookFn) -> None:
        self._review = review

    async def answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                question = msgspec.json.decode(await request.read())
                return await self._decide(question, request)
        except TimeoutError:
            return web.Response(status=503, text=f"no answer within {ANSWER_SECONDS} s")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return web.Response(status=400, text=f"not an AdmissionReview: {error}")

    async def _decide(self, question: Any, request: web.Request) -> web.Response:
        if not isinstance(question, dict) or not isinstance(question.get("request"), dict):
            return web.Response(status=400, text="not an AdmissionReview: it has no request")
        headers = dict(request.headers)
        answer = await self._review(question, webhook=request.match_info["webhook"], headers=headers)  # type: ignore[arg-type]
        response = cast("Mapping[str, Any]", answer["response"])
        if not response["allowed"] and response["status"]["code"] == FAULT_OF_OURS:
            # A fault of ours is no verdict on the object: the API server ignores a webhook that fails.
            return web.Response(status=500, text=str(response["status"]["message"]))
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


def load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    """Put a pair into a context, which may be in use; OpenSSL reads files only, so the key is one in memory."""
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(pair.key + pair.certificate)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
