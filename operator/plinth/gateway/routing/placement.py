"""What routing is told of a request, and what it answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from plinth.gateway.routing.blocks import BLOCK_TOKENS
from plinth.gateway.routing.choice import Standing


class Prompt(msgspec.Struct, eq=False, gc=False):
    """One request as routing sees it; made once, used again for each attempt."""

    tokens: int
    """Estimated, or counted where the prompt came as ids."""
    blocks: Sequence[int] = ()
    block_tokens: int = BLOCK_TOKENS
    """What each block stands for."""
    output_tokens: int = 0
    """Expected of the answer."""
    band: str = "default"
    session: str = ""
    """The client's own name for a conversation; empty without one."""
    adapter: str = ""
    """A LoRA adapter; empty for the plain model."""

    def uncached_tokens(self, depth: int) -> int:
        """What a replica has to read that holds the first `depth` blocks. Engines read one token at the least."""
        left = self.tokens - depth * self.block_tokens
        return left if left > 0 else 1


class Placement(msgspec.Struct, eq=False, gc=False):
    """A prompt at a replica: what was counted there, so that exactly that is taken away again."""

    standing: Standing
    prompt: Prompt
    uncached: int
    """Prompt tokens that the replica has to read."""
    work: int = 0
    """Uncached tokens outstanding at the replica when the prompt was sent, its own included."""
    beside: int = 0
    """Requests that were there already."""
    sent_at: float = 0.0
    answered: bool = False
