"""The smallest Serve application, for timing Ray itself."""

from __future__ import annotations

from typing import Any

from ray import serve


class Trivial:
    """Answers its own name."""

    async def __call__(self) -> str:
        return "trivial"


def build(args: dict[str, Any]) -> serve.Application:
    """An application; `args` only tells one from another."""
    name = f"trivial{args['n']}"
    return serve.deployment(name=name, ray_actor_options={"num_cpus": 0})(Trivial).bind()
