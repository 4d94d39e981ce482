"""What `plinth up` shows: a live table on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from plinth.api.v1alpha1 import ModelDeploymentStatus
from plinth.controllers.cycle import Pass
from plinth.domain.figures import format_tokens
from plinth.domain.fleet import ModelKey
from plinth.domain.quantities import format_bytes
from plinth.domain.traffic import LoadReport

COLUMNS = ("MODEL", "READY", "SHAPE", "IN FLIGHT", "QUEUE", "TOKENS/S", "REASON", "")


@dataclass
class TokenRates:
    """Output tokens a second of each model, from the totals of one report to the next."""

    clock: Callable[[], float] = time.monotonic
    _before: LoadReport | None = None
    _at: float = 0.0
    rates: dict[str, int] = field(default_factory=dict)

    def take(self, report: LoadReport | None) -> None:
        """Note a report; one already seen changes nothing."""
        if report is None or report is self._before:
            return
        now, before = self.clock(), self._before
        if before is not None and before.gateway == report.gateway and now > self._at:
            self.rates = {
                name: round(
                    (load.output_tokens_total - before.models[name].output_tokens_total) / (now - self._at)
                )
                for name, load in report.models.items()
                if name in before.models
            }
        self._before, self._at = report, now


@dataclass
class View:
    """Shows passes to a person."""

    console: Console
    _live: Live | None = None
    _shown: dict[ModelKey, tuple[object, ...]] = field(default_factory=dict)
    _errors: tuple[str, ...] = ()
    _rates: TokenRates = field(default_factory=TokenRates)

    def __post_init__(self) -> None:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """One line, kept on the screen."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show_errors(self, errors: tuple[str, ...]) -> None:
        """Errors of the folder's files, each once for as long as they stay the same."""
        for error in errors:
            if error not in self._errors:
                self.say(error)
        self._errors = errors

    def show(self, done: Pass) -> None:
        """One pass: the table anew, or a line for each model that changed."""
        report = done.snapshot.report
        self._rates.take(report)
        if self._live is not None:
            self._live.update(self._table(done), refresh=True)
            return
        for key, status in sorted(done.statuses.models.items()):
            line = (status.ready_replicas, status.desired_replicas, status.reason, describe(status))
            if self._shown.get(key) != line:
                self._shown[key] = line
                self.say(
                    f"{key}  {status.ready_replicas}/{status.desired_replicas}  {status.reason}  {line[3]}"
                )

    def _table(self, done: Pass) -> Table:
        table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
        loads = done.snapshot.report.models if done.snapshot.report else {}
        for key, status in sorted(done.statuses.models.items()):
            load = loads.get(str(key))
            table.add_row(
                str(key),
                f"{status.ready_replicas}/{status.desired_replicas}",
                status.shape,
                str(load.in_flight) if load else "?",
                str(load.queued) if load else "?",
                str(self._rates.rates.get(str(key), 0)),
                status.reason,
                describe(status),
            )
        return table


def compare_figures(status: ModelDeploymentStatus) -> Iterator[str]:
    """What was predicted beside what was measured, a line each; none while nothing was."""
    for name, figures in (("predicted", status.predicted), ("measured", status.measured)):
        if figures is not None:
            parts: list[tuple[str, int | None, Callable[[int], str]]] = [
                ("weights {}", figures.weights_bytes, format_bytes),
                ("· KV {}", figures.kv_bytes, format_bytes),
                ("= {}", figures.kv_tokens, format_tokens),
                ("· overhead {}", figures.overhead_bytes, format_bytes),
                ("· {} tokens/s", figures.tokens_per_second, str),
                ("at {} requests", figures.concurrency, str),
            ]
            told = [words.format(form(value)) for words, value, form in parts if value is not None]
            yield f"{name}: {' '.join(told)}"


def describe(status: ModelDeploymentStatus) -> str:
    """The most telling half-sentence about a model: how far a start is, or why it is not ready."""
    if status.progress:
        step = status.progress[0]
        share = f" {step.percent}%" if step.bytes_total else ""
        eta = f", {step.eta_seconds} s left" if step.eta_seconds is not None else ""
        return f"{step.phase}{share}{eta}"
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    return "" if ready is None or ready.status == "True" else ready.message.splitlines()[0]
