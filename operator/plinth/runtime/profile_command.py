"""`plinth profile MODEL`: measures a live model, and shows what was predicted beside what its replicas measure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from plinth.api.v1alpha1 import AnyResource, ModelDeployment, Task
from plinth.api.v1alpha1.figures import Figures, Measured, Predicted
from plinth.cluster.status_db import StatusDB
from plinth.domain.figures import format_tokens
from plinth.domain.quantities import ceil_div, format_bytes, plural
from plinth.runtime.commands import FOLDER, find_instance
from plinth.runtime.profiling import Level, ProfileError, Workload, measure
from plinth.runtime.status_command import read_all

MICROSECONDS = 1000
SECONDS = click.option(
    "--seconds",
    type=click.FloatRange(min=1, max=3600),
    default=60,
    show_default=True,
    help="How long to measure, all levels together.",
)
CONCURRENCY = click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 4096),
    multiple=True,
    help="Requests at once on each replica; may be given several times. By default 1, a quarter of what the spec states, and that.",
)
OUTPUT = click.option("-o", "--output", type=click.Choice(["json"]), help="Other than the table.")


@click.command()
@click.argument("model")
@CONCURRENCY
@SECONDS
@OUTPUT
@FOLDER
def profile(
    *, model: str, concurrency: tuple[int, ...], seconds: float, output: str | None, folder: Path | None
) -> None:
    """Measure MODEL under the workload that its spec states.

    It is asked through the gateway, and this counts as load: a model that may scale does.
    """
    state, instance = find_instance(folder)
    with StatusDB.open(state.status_db, read_only=True) as database:
        found = find_model(read_all(database), model)
    show_profile(instance.endpoint, found, concurrency=concurrency, seconds=seconds, output=output)


def find_model(resources: Iterable[AnyResource], name: str) -> ModelDeployment:
    """The model of this name, with its namespace or without. Raises ClickException unless there is exactly one."""
    models = {full_name(each): each for each in resources if isinstance(each, ModelDeployment)}
    found = [key for key in models if name in {key, models[key].metadata.name}]
    if len(found) == 1:
        return models[found[0]]
    if found:
        raise click.ClickException(f"several models are called {name}; name one of {', '.join(found)}")
    raise click.ClickException(f"there is no model {name}; `plinth status` lists the models")


def full_name(model: ModelDeployment) -> str:
    """Namespace and name, which every model answers to."""
    return f"{model.metadata.namespace}/{model.metadata.name}"


def show_profile(
    endpoint: str, model: ModelDeployment, *, concurrency: tuple[int, ...], seconds: float, output: str | None
) -> None:
    """Measure and print. Raises ClickException where nothing could be measured."""
    task, replicas = model.spec.model.task, model.status.ready_replicas
    if task is not Task.GENERATE:
        raise click.ClickException(
            f"{full_name(model)} is there to {task.lower()}; only generation is measured"
        )
    if replicas == 0:
        raise click.ClickException(f"no replica of {full_name(model)} answers; its status says why")
    asked = model.spec.objectives
    workload = Workload(
        model=full_name(model), input_tokens=asked.input_tokens, output_tokens=asked.output_tokens
    )
    levels = sorted(set(concurrency)) or default_levels(asked.concurrency)
    try:
        measured = asyncio.run(measure(endpoint, workload, [each * replicas for each in levels], seconds))
    except ProfileError as error:
        raise click.ClickException(str(error)) from error
    document = make_document(model, measured)
    click.echo(
        json.dumps(document, indent=2) if output == "json" else render(model, document), nl=output == "json"
    )


def default_levels(concurrency: int) -> list[int]:
    """One user, a quarter of the stated concurrency, and all of it."""
    return sorted({1, ceil_div(concurrency, 4), concurrency})


def make_document(model: ModelDeployment, levels: Iterable[Level]) -> dict[str, Any]:
    """All that is known, as JSON; speed is that of one replica, so that it compares with the prediction."""
    status, asked = model.status, model.spec.objectives
    replicas = status.ready_replicas
    return {
        "model": full_name(model),
        "engine": status.engine,
        "shape": status.shape,
        "replicas": replicas,
        "workload": {"inputTokens": asked.input_tokens, "outputTokens": asked.output_tokens},
        "predicted": _dump(status.predicted),
        "measured": _dump(status.measured),
        "levels": [
            {
                "concurrency": each.users // replicas,
                "requests": each.requests,
                "failed": each.failed,
                "ttftP50Milliseconds": each.ttft_p50_milliseconds,
                "ttftP99Milliseconds": each.ttft_p99_milliseconds,
                "tpotMicroseconds": each.tpot_microseconds,
                "tokensPerSecond": each.tokens_per_second // replicas,
            }
            for each in levels
        ],
    }


def _dump(figures: Figures | None) -> dict[str, Any]:
    return figures.model_dump(mode="json", by_alias=True, exclude_none=True) if figures else {}


def render(model: ModelDeployment, document: dict[str, Any]) -> str:
    """The document for a person: memory, then speed, what was predicted first."""
    workload, shape = document["workload"], document["shape"]
    console = Console()
    with console.capture() as capture:
        console.print(
            f"{document['model']}: {shape} {document['engine']}, {plural(document['replicas'], 'replica')} ready,"
            f" {workload['inputTokens']} tokens in, {workload['outputTokens']} out\n",
            highlight=False,
            markup=False,
        )
        console.print(
            _memory_table(model.status.predicted or Predicted(), model.status.measured or Measured())
        )
        console.print()
        console.print(_speed_table(document))
    return capture.get()


def _memory_table(predicted: Predicted, measured: Measured) -> Table:
    table = Table("MEMORY", "PREDICTED", "MEASURED", box=None, pad_edge=False, header_style="bold")
    for name, field, form in (
        ("weights", "weights_bytes", format_bytes),
        ("KV cache", "kv_bytes", format_bytes),
        ("", "kv_tokens", format_tokens),
        ("overhead", "overhead_bytes", format_bytes),
    ):
        values = (getattr(predicted, field), getattr(measured, field))
        table.add_row(name, *("?" if value is None else form(value) for value in values))
    return table


def _speed_table(document: dict[str, Any]) -> Table:
    columns = ("CONCURRENCY", "TTFT-P50", "TTFT-P99", "TPOT", "TOKENS/S", "REQUESTS", "FAILED")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    predicted = document["predicted"]
    if "tokensPerSecond" in predicted:
        table.add_row(f"{predicted['concurrency']} predicted", *_speeds(predicted), "", "")
    for level in document["levels"]:
        table.add_row(
            str(level["concurrency"]), *_speeds(level), str(level["requests"]), str(level["failed"])
        )
    return table


def _speeds(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{found['ttftP50Milliseconds']} ms",
        f"{found['ttftP99Milliseconds']} ms",
        f"{found['tpotMicroseconds'] / MICROSECONDS:.1f} ms",
        str(found["tokensPerSecond"]),
    )
