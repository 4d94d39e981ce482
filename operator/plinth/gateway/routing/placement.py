"""What routing is told of a request, and what it answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from plinth.gateway.routing.blocks import BLOCK_TOKENS
from plinth.gateway.routing.choice import Standing


class Prompt:
    """One request as routing sees it; made once, used again for each attempt."""

    __slots__ = ("adapter", "band", "block_tokens", "blocks", "output_tokens", "session", "tokens")

    def __init__(
        self,
        tokens: int,
        blocks: Sequence[int] = (),
        block_tokens: int = BLOCK_TOKENS,
        *,
        output_tokens: int = 0,
        band: str = "default",
        session: str = "",
        adapter: str = "",
    ) -> None:
        self.tokens = tokens
        """Estimated, or counted where the prompt came as ids."""
        self.blocks = blocks
        self.block_tokens = block_tokens
        """What each block stands for."""
        self.output_tokens = output_tokens
        """Expected of the answer."""
        self.band = band
        self.session = session
        """The client's own name for a conversation; empty without one."""
        self.adapter = adapter
        """A LoRA adapter; empty for the plain model."""

    def uncached_tokens(self, depth: int) -> int:
        """What a replica has to read that holds the first `depth` blocks. Engines read one token at the least."""
        left = self.tokens - depth * self.block_tokens
        return left if left > 0 else 1


class Placement:
    """A prompt at a replica: what was counted there, so that exactly that is taken away again."""

    __slots__ = ("answered", "beside", "on_trial", "prompt", "sent_at", "standing", "uncached", "work")

    def __init__(self, standing: Standing, prompt: Prompt, uncached: int) -> None:
        self.standing = standing
        self.prompt = prompt
        self.uncached = uncached
        """Prompt tokens that the replica has to read."""
        self.work = 0
        """Uncached tokens outstanding at the replica when the prompt was sent, its own included."""
        self.beside = 0
        """Requests that were there already."""
        self.sent_at = 0.0
        self.on_trial = False
        """The replica was being tried with more than it is known to bear: what waits inside it says nothing of its pace."""
        self.answered = False
