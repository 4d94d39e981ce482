"""The commands beside `up`: they look at a running instance from another terminal, and change nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from plinth.api.v1alpha1.crdgen import write_crds
from plinth.cluster.capacity import CapacityAway
from plinth.cluster.ray_rest import RayRest
from plinth.cluster.state_dir import Instance, StateDir, find_instances
from plinth.desired.serve_details import read_slots
from plinth.runtime.chat import ChatError, stream_chat

FOLDER = click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="The folder that `plinth up` serves; needed only where several are served.",
)


def find_instance(folder: Path | None) -> tuple[StateDir, Instance]:
    """The running instance that is meant. Raises ClickException when there is none or more than one."""
    running = find_instances()
    if folder is not None:
        running = [each for each in running if each.folder == str(folder)]
    if not running:
        where = f" for {folder}" if folder else ""
        raise click.ClickException(f"no `plinth up` is running{where}; start one with: plinth up FOLDER")
    if len(running) > 1:
        folders = ", ".join(each.folder for each in running)
        raise click.ClickException(f"several folders are served; name one with --folder: {folders}")
    return StateDir.for_folder(Path(running[0].folder)), running[0]


@click.command()
@click.argument("model")
@click.option("-n", "--lines", default=100, show_default=True, help="How many lines of each replica.")
@FOLDER
def logs(model: str, lines: int, folder: Path | None) -> None:
    """Print what the engines of MODEL wrote, replica by replica."""
    state, instance = find_instance(folder)
    if not instance.ray_address:
        raise click.ClickException(f"Ray is not running yet; its own log is {state.logs / 'ray.log'}")
    asyncio.run(_print_logs(RayRest(instance.ray_address, state.ray_token_file), model, lines))


async def _print_logs(rest: RayRest, model: str, lines: int) -> None:
    if not await print_logs(rest, model, lines):
        raise click.ClickException(f"no replica of {model} runs; `plinth status` lists the models")


async def print_logs(rest: RayRest, model: str, lines: int) -> int:
    """Print the logs of the model's replicas on one Ray, and close it; how many there are."""
    try:
        observation = await rest.observe()
        found = [
            each
            for each in read_slots(observation.serve)
            if model in {each.slot.name.model.name, str(each.slot.name.model)}
        ]
        for each in found:
            click.echo(f"==> {each.slot.name} <==")
            if each.actor_id:
                click.echo((await rest.read_log(each.actor_id, lines=lines)).rstrip())
    except CapacityAway as error:
        raise click.ClickException(str(error)) from error
    finally:
        await rest.close()
    return len(found)


@click.command()
@click.argument("model")
@click.argument("question", nargs=-1)
@FOLDER
def chat(model: str, question: tuple[str, ...], folder: Path | None) -> None:
    """Talk to MODEL; the answer streams. With a QUESTION, ask that and leave."""
    _, instance = find_instance(folder)
    converse(instance.endpoint, model, " ".join(question))


def converse(endpoint: str, model: str, question: str) -> None:
    """Ask the question and print the answer as it comes; without one, ask the person for questions until Ctrl-C."""
    messages: list[dict[str, str]] = []
    try:
        if question:
            asyncio.run(_exchange(endpoint, model, messages, question))
            return
        while True:
            asyncio.run(_exchange(endpoint, model, messages, click.prompt(">", prompt_suffix=" ")))
    except ChatError as error:
        raise click.ClickException(str(error)) from error


async def _exchange(endpoint: str, model: str, messages: list[dict[str, str]], question: str) -> None:
    messages.append({"role": "user", "content": question})
    answer = []
    async for text in stream_chat(endpoint, model, messages):
        answer.append(text)
        click.echo(text, nl=False)
    click.echo()
    messages.append({"role": "assistant", "content": "".join(answer)})


@click.command()
@click.argument("folder", default="crds", type=click.Path(file_okay=False, path_type=Path))
def crds(folder: Path) -> None:
    """Write the CustomResourceDefinitions to FOLDER."""
    for path in write_crds(folder):
        click.echo(path)
