"""Why the hub does not give what was asked of it, in words that say what to change.

The planner's reader meets these refusals first and the replica again; both tell them with the sentences made here.
"""

from __future__ import annotations

import httpx2
from huggingface_hub import errors

from plinth.domain.sources import Source

UNREACHABLE = (errors.OfflineModeIsEnabled, httpx2.TransportError, ConnectionError, TimeoutError)
REFUSALS = (errors.HfHubHTTPError, httpx2.TransportError, OSError)
"""What asking the hub may raise."""
_FORBIDDEN = frozenset({401, 403})
_NOT_FOUND = 404


def explain_refusal(source: Source, error: Exception, *, with_token: bool) -> str:
    """What went wrong with this source; `with_token`: whether spec.model.credentials gave one."""
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(source, error, with_token=with_token)
    if isinstance(error, UNREACHABLE):
        return f"the hub cannot be reached ({error}) when asked for {source.origin}"
    return f"{source.origin} cannot be downloaded: {error}"


def _explain_answer(source: Source, error: errors.HfHubHTTPError, *, with_token: bool) -> str:
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return _gated(source.origin, with_token=with_token)
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{source.origin} has no revision {source.revision}; check spec.model.revision"
    if isinstance(error, errors.RepositoryNotFoundError) or status in _FORBIDDEN:
        return _hidden(source.origin, with_token=with_token)
    if status == _NOT_FOUND:
        return f"the hub lists a file of {source.origin} that it does not have"
    return f"the hub answered {status} when asked for {source.origin}"


def _gated(origin: str, *, with_token: bool) -> str:
    if with_token:
        return (
            f"{origin} is gated and the token of spec.model.credentials has no access: ask for it on the hub"
        )
    return f"{origin} is gated: name a secret with a token that has access in spec.model.credentials"


def _hidden(origin: str, *, with_token: bool) -> str:
    if with_token:
        return f"{origin} is not on the hub, or the token of spec.model.credentials may not see it"
    return f"{origin} is not on the hub, or is private: a private one needs spec.model.credentials"
