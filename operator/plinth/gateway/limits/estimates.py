"""How many tokens a request will use, before anybody knows: learnt from what earlier ones used. Pure.

The prompt is its bytes over bytes-per-token of the model. The output is what 95% of the key's answers on the model
stay below: reserving `max_tokens` whole would leave most of a quota unused, reserving nothing would let any number
of requests in before the first is charged.
"""

from __future__ import annotations

from collections import OrderedDict
from math import exp
from typing import Final, TypeVar

BYTES_PER_TOKEN: Final = 4.0
"""Of JSON with English text, until a model has taught its own."""
RATIO_SHARE: Final = 0.05
"""Weight of the newest request in the mean: some 20 requests count."""
FIRST_OUTPUT_TOKENS: Final = 256.0
QUANTILE: Final = 0.95
STEP: Final = 0.2
_UP, _DOWN = exp(STEP * QUANTILE), exp(-STEP * (1 - QUANTILE))
REMEMBERED: Final = 16_384
"""Pairs of key and model; the one unused for longest is forgotten first."""

Known = TypeVar("Known")


class TokenEstimates:
    """What requests of each model, and each key on it, have used."""

    __slots__ = ("_bytes_per_token", "_output", "_remembered")

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._bytes_per_token: OrderedDict[str, float] = OrderedDict()
        self._output: OrderedDict[tuple[str, str], float] = OrderedDict()

    def input_tokens(self, model: str, body_bytes: int) -> int:
        """Tokens of a prompt whose body has so many bytes; at least 1."""
        return int(body_bytes / self._bytes_per_token.get(model, BYTES_PER_TOKEN)) + 1

    def output_tokens(self, key: str, model: str, most: int | None) -> int:
        """Tokens to reserve for the answer, never more than the request allows."""
        learnt = int(self._output.get((key, model), FIRST_OUTPUT_TOKENS))
        return learnt if most is None or most > learnt else most

    def learn_input(self, model: str, body_bytes: int, tokens: int) -> None:
        """A request's `usage` told how many tokens its body was."""
        if tokens > 0 and body_bytes > 0:
            mean = self._bytes_per_token.get(model, BYTES_PER_TOKEN)
            # An image is few tokens in many bytes, hence the bound.
            seen = min(64.0, max(0.5, body_bytes / tokens))
            self._remember(self._bytes_per_token, model, mean + RATIO_SHARE * (seen - mean))

    def learn_output(self, key: str, model: str, tokens: int) -> None:
        """Moves the quantile: up by 19 steps for a longer answer, down by one for a shorter, so 1 in 20 is longer.

        Robbins-Monro on the logarithm: one number, nothing sorted, and old answers fade.
        """
        pair = (key, model)
        learnt = self._output.get(pair, FIRST_OUTPUT_TOKENS)
        self._remember(self._output, pair, learnt * _UP if tokens > learnt else max(1.0, learnt * _DOWN))

    def _remember(self, known: OrderedDict[Known, float], key: Known, value: float) -> None:
        known[key] = value
        known.move_to_end(key)
        if len(known) > self._remembered:
            known.popitem(last=False)
