"""Replicas and prompts with valid defaults."""

from __future__ import annotations

from collections.abc import Sequence

from plinth.domain.traffic import Strategy
from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.pace import Pace
from plinth.gateway.routing.placement import Prompt
from plinth.gateway.routing.router import Router


def make_standing(slot: str = "a", **fields: object) -> Standing:
    given = {"concurrency": 8, "rate": 10_000.0, **fields}
    rate = given.pop("rate")
    standing = Standing(slot=slot, **given)  # type: ignore[arg-type] # overrides are a test's own
    standing.pace.restart(rate)  # type: ignore[arg-type]
    return standing


def make_prompt(tokens: int = 1000, blocks: Sequence[int] = (), **fields: object) -> Prompt:
    return Prompt(tokens, blocks, **fields)  # type: ignore[arg-type] # as above


def make_router(
    standings: Sequence[Standing], strategy: Strategy = Strategy.EXPECTED_TTFT, block_tokens: int = 100
) -> Router:
    """A router whose replicas keep the pace that the test gave them."""
    router = Router(strategy, block_tokens=block_tokens)
    for standing in standings:
        pace, standing.pace = standing.pace, Pace()
        router.join(standing)
        standing.pace = pace
    return router
