"""`plinth inspect`: the small server beside a Ray head that looks into sources for the operator."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click
from aiohttp import web

from plinth.cluster.inspector import Inspector
from plinth.desired.ray_names import INSPECTOR_PORT
from plinth.domain.sources import SHARED_MODELS
from plinth.engine.local_sources import SourcePlaces
from plinth.runtime.listen import Listen

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--listen",
    type=Listen(),
    default=f"127.0.0.1:{INSPECTOR_PORT}",
    show_default=True,
    help="Where the operator asks.",
)
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="File with the secret that it must show.",
)
@click.option(
    "--models", type=FOLDER, default=SHARED_MODELS, show_default=True, help="Where file:// sources lie."
)
@click.option(
    "--volumes", type=FOLDER, help="Where the volume claims of pvc:// sources lie, if there are any."
)
def inspect(*, listen: tuple[str, int], secret_file: Path, models: Path, volumes: Path | None) -> None:
    """Answer the operator, which runs elsewhere, what models the files here hold."""
    inspector = Inspector(secret_file, SourcePlaces(shared=models, volumes=volumes))
    asyncio.run(serve(inspector.app(), *listen))


async def serve(app: web.Application, host: str, port: int) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        click.echo(f"listening on {host}:{port}", err=True)
        await stop.wait()
    finally:
        await runner.cleanup()
