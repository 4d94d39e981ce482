"""`plinth` as usual, but its fleet cycle stands still at a step that a file names, for whoever comes to kill it there.

Run in the operator's pods by `faults.py`, as the chart's `executables.plinth`. A file `STEP` in the folder that
`PLINTH_STEPS` names is renamed to `STEP.reached` by the first cycle that comes to that step, so it happens once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plinth.cli import main
from plinth.controllers import cycle, execute
from plinth.controllers.gather import Gatherer

STEPS = ("gather", "plan", "routes", "workers", "ray", "status")
"""In the order of a pass; each is interrupted just before it is done."""


def stand_still(step: str) -> None:
    """Wait for the end here, where somebody asked for it: the event loop and all that it carries stand still too."""
    asked = Path(os.environ["PLINTH_STEPS"]) / step
    try:
        asked.rename(asked.with_suffix(".reached"))
    except FileNotFoundError:
        return
    while True:
        signal.pause()


def interrupted(step: str, do: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        stand_still(step)
        return do(*arguments, **named)

    return call


def interrupt_cycle() -> None:
    """Every step of a pass passes by `stand_still`."""
    patches: tuple[tuple[str, Any, str], ...] = (
        ("gather", Gatherer, "gather"),
        ("plan", cycle, "compute_plan"),
        ("routes", execute, "_send_routes"),
        ("ray", execute, "_apply"),
        ("status", cycle, "make_statuses"),
    )
    for step, owner, name in patches:
        setattr(owner, name, interrupted(step, getattr(owner, name)))
    from plinth.cluster.kube.kuberay import KubeRayCapacity  # noqa: PLC0415 - after the cycle that uses it

    setattr(KubeRayCapacity, "resize", interrupted("workers", KubeRayCapacity.resize))  # noqa: B010


if __name__ == "__main__":
    interrupt_cycle()
    main()
