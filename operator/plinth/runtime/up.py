"""`plinth up`: the command around Standalone. Turns every expected failure into one clear line."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click
from rich.console import Console

from plinth.api.v1alpha1 import Reason
from plinth.cluster.key_store import KeyStoreError
from plinth.cluster.local_ray import RayStartError
from plinth.cluster.state_dir import AlreadyRunningError, UnsafeStateError
from plinth.cluster.status_db import NewerSchemaError
from plinth.controllers.cycle import Pass
from plinth.domain.prose import describe as describe_plan
from plinth.domain.traffic import ReplicaState
from plinth.runtime.chat import ChatError, stream_chat
from plinth.runtime.gateway_process import GatewayStartError
from plinth.runtime.listen import Listen
from plinth.runtime.standalone import Standalone, UpOptions
from plinth.runtime.view import View

EXPECTED = (
    AlreadyRunningError,
    ChatError,
    GatewayStartError,
    KeyStoreError,
    NewerSchemaError,
    RayStartError,
    UnsafeStateError,
)

HOPELESS = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_COLLISION,
        Reason.UNKNOWN_SOURCE,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_UNREADABLE,
        Reason.ENGINE_UNSUITABLE,
        Reason.SHAPE_IMPOSSIBLE,
        Reason.POOL_NOT_FOUND,
        Reason.INSUFFICIENT_CAPACITY,
        Reason.ENGINE_FAILED,
    }
)
"""Reasons that waiting does not mend: with --ask they end the session."""


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.option(
    "--listen", type=Listen(), default="127.0.0.1:8000", show_default=True, help="Where clients connect."
)
@click.option(
    "--ray", "ray_address", metavar="URL", help="Dashboard of a Ray to join instead of starting one."
)
@click.option(
    "--ray-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the joined Ray's token.",
)
@click.option(
    "--drain-seconds", default=60.0, show_default=True, help="How long requests may take to end on Ctrl-C."
)
@click.option("--ask", metavar="QUESTION", help="Ask the first model this once it is ready, then shut down.")
def up(
    *,
    folder: Path,
    listen: tuple[str, int],
    ray_address: str | None,
    ray_token_file: Path | None,
    drain_seconds: float,
    ask: str | None,
) -> None:
    """Serve the models that FOLDER's YAML describes, and follow its edits until Ctrl-C."""
    options = UpOptions(
        folder=folder,
        host=listen[0],
        port=listen[1],
        ray_address=ray_address,
        ray_token_file=ray_token_file,
        drain_seconds=drain_seconds,
    )
    view = View(Console(stderr=ask is not None))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(Session(options, view, ask).run())
    except* EXPECTED as group:
        view.close()
        raise click.ClickException("\n".join(str(error) for error in leaves(group))) from None
    finally:
        view.close()


class Session:
    """One run of `plinth up`: signals, the view, and the question if there is one."""

    def __init__(self, options: UpOptions, view: View, question: str | None) -> None:
        self._view = view
        self._question = question
        self._stop = asyncio.Event()
        self._latest: asyncio.Queue[Pass] = asyncio.Queue(maxsize=1)
        self._announced = False
        self._standalone = Standalone(options, on_pass=self._on_pass, say=view.say)

    async def run(self) -> None:
        """Serve until a signal comes or the question is answered."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._standalone.run(self._stop))
            if self._question is not None:
                asking = group.create_task(self._ask(self._question))
                serving.add_done_callback(lambda _: asking.cancel())

    def _on_pass(self, done: Pass) -> None:
        self._view.show_errors(self._standalone.store.errors)
        self._view.show(done)
        if self._latest.full():
            self._latest.get_nowait()
        self._latest.put_nowait(done)
        ready = first_ready(done)
        if ready is not None and not self._announced:
            self._announced = True
            self._announce(ready)

    def _announce(self, model: str) -> None:
        self._view.say(f"Serving at {self._endpoint}")
        if self._question is None:
            self._view.say(curl_line(self._endpoint, model))

    @property
    def _endpoint(self) -> str:
        gateway = self._standalone.gateway
        return gateway.endpoint if gateway else ""

    async def _ask(self, question: str) -> None:
        """Print the plan, ask, stream the answer, and end the session. Raises ChatError."""
        while (model := first_ready(done := await self._latest.get())) is None:
            if not done.snapshot.models:
                raise ChatError("the folder holds no valid ModelDeployment to ask")
            hopeless = first_refusal(done)
            if hopeless is not None:
                raise ChatError(hopeless)
        click.echo(describe_plan(done.plan).strip())
        click.echo(f"\n> {question}\n")
        async for text in stream_chat(self._endpoint, model, [{"role": "user", "content": question}]):
            click.echo(text, nl=False)
        click.echo()
        self._stop.set()


def first_ready(done: Pass) -> str | None:
    """The served name of the first model that answers."""
    for route in done.plan.routes.models:
        if any(replica.state is ReplicaState.READY for replica in route.replicas):
            return route.names[0]
    return None


def first_refusal(done: Pass) -> str | None:
    """Why the first model will never be ready as it stands, or None while there is hope."""
    for key, status in sorted(done.statuses.models.items()):
        for condition in status.conditions:
            if condition.reason in HOPELESS:
                return f"{key}: {condition.message}"
    return None


def curl_line(endpoint: str, model: str) -> str:
    """A line to paste into another terminal."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return f"curl {endpoint}/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The single exceptions in nested groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
