"""`plinth plan FILE…`: what the fleet would make of these files, on nodes that need not be there, or on those that are.

Files are read as `plinth up` reads them, models as the operator reads them, and the plan is the operator's own
`compute_plan` on a made-up snapshot: there is no second algorithm. With `--live` the running `plinth up` is asked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from plinth.api.v1alpha1 import ModelDeployment, Reason
from plinth.cluster.model_reader import MachineReadings
from plinth.cluster.plan_files import PlanFiles, load_plan_files
from plinth.desired.plan_document import make_plan_document
from plinth.domain.fleet import Artifact, ArtifactRefusal, FleetPlan, FleetSnapshot
from plinth.domain.planner import compute_plan
from plinth.domain.supposed_nodes import StatedNodes, SupposedFleet, parse_nodes, suppose_fleet
from plinth.domain.what_if import moved_to, new_model
from plinth.runtime.commands import FOLDER, find_instance
from plinth.runtime.plan_client import PlanRefused, PlanUnavailable, ask_on
from plinth.runtime.plan_tables import render_plan

BAD_INPUT = 2
UNSATISFIED = 3
WITHOUT_HUB = "a model that cannot be fetched from here can be planned by its config.json: name its folder as file:///FOLDER"

UNSETTLED = "the fleet would change in more steps than were looked at: what is shown is its beginning"


class BadInput(click.ClickException):
    """The files or options are wrong."""

    exit_code = BAD_INPUT


class Nodes(click.ParamType[StatedNodes]):
    """[POOL=]NODESxACCELERATORSxKIND[:MEMORY]."""

    name = "nodes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> StatedNodes:
        """The nodes that are stated."""
        if isinstance(value, StatedNodes):
            return value
        try:
            return parse_nodes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


FILES = click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, path_type=Path)
)
POOL = click.option("--pool", help="Plan as if every model asked for this GPUPool.")
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "yaml"]),
    default="table",
    help="The short table, the table with every reason, or the whole document.",
)


@click.command()
@FILES
@POOL
@click.option(
    "--nodes",
    type=Nodes(),
    metavar="[POOL=]NODESxGPUSxKIND",
    multiple=True,
    help="Nodes to suppose, as in 2x8xH200, h200=2x8xH200 or 2x16xCPU:64Gi; may be given several times. By default a"
    " pool's nodeTypes, or machines of its accelerator as they are usually sold.",
)
@click.option(
    "--live", is_flag=True, help="Plan for the fleet of the running `plinth up`, beside all that it serves."
)
@FOLDER
@OUTPUT
def plan(
    *,
    files: tuple[Path, ...],
    pool: str | None,
    nodes: tuple[StatedNodes, ...],
    live: bool,
    folder: Path | None,
    output: str,
) -> None:
    """Show what the models in FILE... would get: shape, place, memory, speed, cost, and why.

    Each FILE is a YAML file or a folder of them, as for `plinth up`; no cluster and no accelerator is needed. Of a
    model only its config.json or GGUF metadata is read, so a folder with a config.json alone will do.

    Ends with 3 where something would stay pending, with 2 where the files or options are wrong.
    """
    asked = load_files(files)
    if live or folder is not None:
        if nodes:
            raise BadInput("--nodes states a fleet, and --live asks the one that there is: take one of them")
        show_plan(_ask_instance(asked, pool, folder), output)
        return
    fleet = _suppose(asked, nodes)
    made = make_plan(asked, fleet, pool)
    for note in fleet.notes:
        click.echo(note, err=True)
    prices = {each.metadata.name: each.spec.cost_per_accelerator_hour for each in fleet.pools}
    show_plan(make_plan_document(made, prices), output)


def load_files(files: Sequence[Path]) -> PlanFiles:
    """What the files ask for. Raises BadInput."""
    asked = load_plan_files(files)
    if asked.errors:
        raise BadInput("\n".join(str(error) for error in asked.errors))
    if not asked.models:
        raise BadInput("there is no ModelDeployment to plan for")
    return asked


def show_plan(document: dict[str, Any], output: str) -> None:
    """Print the document, and end the command with 3 where something would stay pending."""
    click.echo(_render(document, output), nl=False)
    if not document.get("settled", True):
        click.echo(UNSETTLED, err=True)
    for each in document["pending"]:
        click.echo(f"{each['namespace']}/{each['name']} stays pending: {each['message']}", err=True)
    if any(each["reason"] == Reason.MODEL_NOT_FOUND for each in document["pending"]):
        click.echo(WITHOUT_HUB, err=True)
    if document["pending"]:
        sys.exit(UNSATISFIED)


def _ask_instance(asked: PlanFiles, pool: str | None, folder: Path | None) -> dict[str, Any]:
    state, _ = find_instance(folder)
    try:
        return ask_on(state.plan_socket, (*asked.pools, *asked.models), pool)
    except PlanRefused as error:
        raise BadInput(str(error)) from None
    except PlanUnavailable as error:
        raise click.ClickException(str(error)) from error


def _suppose(asked: PlanFiles, nodes: Sequence[StatedNodes]) -> SupposedFleet:
    try:
        return suppose_fleet(asked.pools, nodes)
    except ValueError as error:
        raise BadInput(str(error)) from None


def make_plan(asked: PlanFiles, fleet: SupposedFleet, pool: str | None) -> FleetPlan:
    """The production planner's plan for what is asked, on what is supposed. Raises BadInput."""
    names = [each.metadata.name for each in fleet.pools]
    if pool is not None and pool not in names:
        raise BadInput(f"there is no GPUPool {pool}; there is {', '.join(names)}")
    models = [moved_to(each, pool) for each in asked.models]
    artifacts = asyncio.run(_read_all(models, asked))
    snapshot = FleetSnapshot(
        pools=fleet.pools,
        models=tuple(
            new_model(each, artifact, 0.0) for each, artifact in zip(models, artifacts, strict=True)
        ),
        nodes=fleet.nodes,
        slots=(),
        report=None,
    )
    return compute_plan(snapshot, time.time())


async def _read_all(models: Sequence[ModelDeployment], asked: PlanFiles) -> list[Artifact | ArtifactRefusal]:
    """What each model is; models with the same source are read once."""
    readings = {
        model.key: MachineReadings(secrets_dir=asked.secrets[model.key], weights_needed=False)
        for model in models
    }
    questions = {model.key: (readings[model.key], readings[model.key].question(model)) for model in models}
    distinct = list(dict.fromkeys(questions.values()))
    answers = await asyncio.gather(*(reading.answer(question) for reading, question in distinct))
    by_question = dict(zip(distinct, answers, strict=True))
    return [by_question[questions[model.key]] for model in models]


def _render(document: dict[str, Any], output: str) -> str:
    if output == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if output == "yaml":
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return render_plan(document, wide=output == "wide")
