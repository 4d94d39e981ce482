"""The smallest Serve application, for timing Ray itself."""

from __future__ import annotations

from typing import Any

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Trivial:
    """Answers its own name."""

    async def __call__(self) -> str:
        return "trivial"


def build(args: dict[str, Any]) -> serve.Application:
    """An application; `args` only tells one from another."""
    return Trivial.options(name=f"trivial{args['n']}").bind()
