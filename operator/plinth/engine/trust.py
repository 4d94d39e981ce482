"""The second lock on engine arguments: what the planner refuses, the replica refuses too, whoever told it to start."""

from __future__ import annotations

from plinth.domain.engine_args import find_reaching
from plinth.domain.fleet import EngineSpec
from plinth.engine.seam import EngineError


def refuse_untrusted(spec: EngineSpec, *, trust_remote_code: bool) -> None:
    """Refuse arguments that reach further than the model where they are not trusted.

    Raises:
        EngineError: names the first such argument.
    """
    found = None if trust_remote_code else find_reaching(spec.engine, spec.args)
    if found is not None:
        name, why = found
        raise EngineError(f"engine.args.{name}: it {why}, which this pool forbids; leave it out")
