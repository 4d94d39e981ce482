"""The plan of `plinth plan` for a person: tables of models, of pools and of what changes, with `-o wide` every reason."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from plinth.domain.quantities import format_bytes, format_count
from plinth.domain.sizing.shape import Shape

WIDEST = 1000
"""Columns where nothing is folded."""
MODEL_COLUMNS = (
    *("MODEL", "POOL", "SHAPE", "GPUS", "WEIGHTS", "KV-TOKENS"),
    *("TTFT-P99", "TPOT", "TOKENS/S", "COST/H", "STATE"),
)
WIDE_COLUMNS = ("ENGINE", "ADAPTERS", "KV", "OVERHEAD", "TTFT-P50", "COST/1M-TOKENS")
POOL_COLUMNS = ("POOL", "ACCELERATOR", "NODES", "GPUS USED", "MEMORY USED")
CHANGE_COLUMNS = ("REPLICA", "ACTION", "NODES", "WHY")
UNKNOWN = "?"


def render_plan(document: dict[str, Any], *, wide: bool) -> str:
    """The document as tables; WEIGHTS, ADAPTERS, KV and OVERHEAD are those of one accelerator."""
    fits = sys.stdout.isatty() and not wide
    console = Console() if fits else Console(width=WIDEST)
    pending = {(each["namespace"], each["name"]): each for each in document["pending"]}
    with console.capture() as capture:
        console.print(_models(document["models"], pending, wide=wide))
        console.print()
        console.print(_pools(document["pools"]))
        if document.get("changes"):
            console.print()
            console.print(_changes(document["changes"]))
        if wide:
            _print_reasons(console, document["models"])
    return capture.get()


def _models(
    models: Iterable[dict[str, Any]], pending: dict[tuple[str, str], dict[str, Any]], *, wide: bool
) -> Table:
    table = _table(MODEL_COLUMNS + (WIDE_COLUMNS if wide else ()))
    shown = set()
    for model in models:
        key = model["namespace"], model["name"]
        shown.add(key)
        obstacle = pending.get(key)
        state = obstacle["reason"] if obstacle else "fits"
        table.add_row(*_cells(model), state, *(_wide_cells(model) if wide else ()))
    for key, obstacle in pending.items():
        if key not in shown:
            blank = [""] * (len(MODEL_COLUMNS) - 2)
            table.add_row("/".join(key), *blank, obstacle["reason"])
    return table


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    memory, speed = model["memory"], model["predicted"]
    return (
        f"{model['namespace']}/{model['name']}",
        model["pool"],
        f"{model['replicas']} x {_shape(model)}",
        str(model["gpus"]),
        _bytes(memory, "weightsBytesPerGpu"),
        format_count(memory["kvTokens"]) if memory else UNKNOWN,
        *_speeds(speed),
        model["costPerHour"],
    )


def _speeds(speed: dict[str, Any] | None) -> tuple[str, ...]:
    if speed is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    return (
        f"{speed['ttftP99Milliseconds']} ms",
        f"{speed['tpotMicroseconds'] / 1000:.1f} ms",
        str(speed["tokensPerSecond"]),
    )


def _wide_cells(model: dict[str, Any]) -> tuple[str, ...]:
    memory, speed = model["memory"], model["predicted"]
    return (
        model["engine"],
        _bytes(memory, "adapterBytesPerGpu"),
        _bytes(memory, "kvBytesPerGpu"),
        _bytes(memory, "overheadBytesPerGpu"),
        f"{speed['ttftP50Milliseconds']} ms" if speed else UNKNOWN,
        speed["costPerMillionTokens"] if speed else UNKNOWN,
    )


def _shape(model: dict[str, Any]) -> Shape:
    degrees = model["shape"]
    return Shape(
        tensor=degrees["tensorParallel"],
        pipeline=degrees["pipelineParallel"],
        expert=degrees["expertParallel"],
        data=degrees["dataParallel"],
    )


def _bytes(memory: dict[str, Any] | None, name: str) -> str:
    return UNKNOWN if memory is None or memory[name] is None else format_bytes(memory[name])


def _pools(pools: Iterable[dict[str, Any]]) -> Table:
    table = _table(POOL_COLUMNS)
    for pool in pools:
        memory = f"{format_bytes(pool['memoryUsedBytes'])} of {format_bytes(pool['memoryBytes'])}"
        gpus = f"{pool['gpusUsed']} of {pool['gpus']}"
        table.add_row(pool["name"], pool["accelerator"] or UNKNOWN, str(pool["nodes"]), gpus, memory)
    return table


def _changes(changes: Iterable[dict[str, Any]]) -> Table:
    table = _table(CHANGE_COLUMNS)
    for each in changes:
        table.add_row(each["replica"], each["action"], ", ".join(each["nodes"]), each["reason"])
    return table


def _print_reasons(console: Console, models: Iterable[dict[str, Any]]) -> None:
    for model in models:
        console.print(f"\n{model['namespace']}/{model['name']}", highlight=False, markup=False)
        for sentence in model["reasons"]:
            console.print(f"  {sentence}", highlight=False, markup=False)


def _table(columns: Iterable[str]) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")
