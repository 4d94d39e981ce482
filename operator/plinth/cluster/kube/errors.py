"""What can go wrong with the Kubernetes API, in the words that the adapters' callers use; and the fence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

TOO_MANY, SERVER_ERRORS = 429, 500


class KubeAway(Exception):  # noqa: N818 - a state of the world
    """No answer, or one that says nothing of the request (5xx, 429): a write may or may not have happened."""


class KubeRefused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """The API server said no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        super().__init__(f"{status} {reason}: {message}")


class NotLeaderError(Exception):
    """This process must not change anything now: it is not, or may soon not be, the leader."""


class Fence(Protocol):
    """Whether this process may still change things."""

    def check(self) -> None:
        """Raise NotLeaderError unless a write begun now surely ends before anyone else leads."""


def error_of(status: int, answer: Mapping[str, Any]) -> KubeAway | KubeRefused:
    """The exception that an answer of the API server (a `Status` object) means."""
    reason, message = str(answer.get("reason") or ""), str(answer.get("message") or "")
    if status == TOO_MANY or status >= SERVER_ERRORS:
        return KubeAway(f"the API server answered {status} {reason}: {message}")
    return KubeRefused(status, reason, message)
