"""`plinth status`: what is asked for and what runs, as a table, as JSON or as YAML, once or for as long as you watch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from plinth.api.v1alpha1 import KINDS, AnyResource, GPUPool, ModelDeployment
from plinth.cluster.status_db import StatusDB
from plinth.domain.quantities import format_bytes
from plinth.runtime.commands import FOLDER, find_instance
from plinth.runtime.view import compare_figures, describe

WATCH_SECONDS = 1.0
WIDEST = 1000
"""Columns where nothing is folded: in what another program reads, and in the wide table, as kubectl's."""
MODEL_COLUMNS = ("MODEL", "READY", "SHAPE", "GPUS", "QUEUE", "COST/H", "REASON", "")
POOL_COLUMNS = ("POOL", "ACCELERATOR", "NODES", "GPUS USED", "MEMORY USED", "REASON")
WIDE_COLUMNS = ("POOL", "ENGINE", "REVISION", "UPDATED", "OBJECTIVES", "PREDICTION")


OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["json", "yaml", "wide"]), help="Other than the short table."
)
WATCH = click.option("-w", "--watch", is_flag=True, help="Keep watching until Ctrl-C.")


@click.command()
@OUTPUT
@WATCH
@FOLDER
def status(output: str | None, watch: bool, folder: Path | None) -> None:  # noqa: FBT001 - click passes flags so
    """Show the models and pools of a running `plinth up`."""
    state, _ = find_instance(folder)

    def read() -> list[AnyResource]:
        try:
            with StatusDB.open(state.status_db, read_only=True) as database:
                return read_all(database)
        except FileNotFoundError as error:
            raise click.ClickException(str(error)) from error

    show(read, output, watch=watch)


def show(read: Callable[[], list[AnyResource]], output: str | None, *, watch: bool) -> None:
    """Print what `read` gives; with `watch`, again after every change until Ctrl-C."""
    fits = sys.stdout.isatty() and output != "wide"
    console = Console() if fits else Console(width=WIDEST)
    shown = ""
    while True:
        text = render(console, read(), output)
        if text != shown:
            click.echo(text, nl=False)
            shown = text
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def read_all(database: StatusDB) -> list[AnyResource]:
    """Every resource in its last good version, with its generation and status."""
    statuses = database.read_statuses()
    found: list[AnyResource] = []
    for row in database.read_resources():
        resource = KINDS[row.key.kind].model_validate_json(row.manifest)
        changes: dict[str, object] = {
            "metadata": resource.metadata.model_copy(update={"generation": row.generation})
        }
        if row.key in statuses:
            changes["status"] = statuses[row.key]
        found.append(resource.model_copy(update=changes))
    return found


def render(console: Console, resources: list[AnyResource], output: str | None) -> str:
    """Models and pools as a person or a program asked to see them."""
    models = [each for each in resources if isinstance(each, ModelDeployment)]
    if output in {"json", "yaml"}:
        items = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in resources]
        document: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": items}
        if output == "json":
            return json.dumps(document, indent=2) + "\n"
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    pools = [each for each in resources if isinstance(each, GPUPool)]
    with console.capture() as capture:
        console.print(_models_table(models, wide=output == "wide"))
        if pools:
            console.print()
            console.print(_pools_table(pools))
        if output == "wide":
            for each in models:
                for sentence in (*each.status.plan, *compare_figures(each.status)):
                    console.print(f"  {each.metadata.name}: {sentence}", markup=False, highlight=False)
    return capture.get()


def _pools_table(pools: list[GPUPool]) -> Table:
    table = Table(*POOL_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for pool in pools:
        found = pool.status
        memory = f"{format_bytes(found.memory_used_bytes)} of {format_bytes(found.memory_bytes)}"
        gpus = f"{found.accelerators_used} of {found.accelerators}"
        table.add_row(pool.metadata.name, found.accelerator, str(found.nodes), gpus, memory, found.reason)
    return table


def _models_table(models: list[ModelDeployment], *, wide: bool) -> Table:
    columns = MODEL_COLUMNS + (WIDE_COLUMNS if wide else ())
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for model in models:
        found = model.status
        row = [
            f"{model.metadata.namespace}/{model.metadata.name}",
            f"{found.ready_replicas}/{found.desired_replicas}",
            found.shape,
            str(found.accelerators),
            str(found.queued),
            found.cost_per_hour,
            found.reason,
            describe(found),
        ]
        if wide:
            reasons = {each.type: each.reason for each in found.conditions}
            row += [
                found.pool,
                found.engine,
                found.revision,
                reasons.get("Updated", ""),
                reasons.get("ObjectivesMet", ""),
                reasons.get("AsPredicted", ""),
            ]
        table.add_row(*row)
    return table
