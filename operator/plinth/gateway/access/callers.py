"""From the headers of a request to its caller: the first step after its head is read. Pure; the time is an argument.

    caller = gate.admit(request.authorization, request.api_key, unix_now)   # Caller | Refusal
    terms = caller.terms(route.model)                                       # Terms | None
    refusal = caller.refuse(asked, route.model, listed)                     # where there are no terms

A Gate is made of each new access table and replaces the last one whole. Requests that were let in go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from plinth.domain.access import AccessTable, KeyRecord, PolicyRecord
from plinth.domain.traffic import ModelRoute
from plinth.gateway.access.refusals import key_expired, key_missing, key_unknown, model_not_allowed
from plinth.gateway.access.terms import Terms, make_terms
from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.routing.names import model_not_found

ANONYMOUS: Final = KeyRecord(id="anonymous", tenant="", digest="")
"""Whoever shows no key where none is needed."""
_BEARER: Final = b"bearer "
_MOST_SHOWN: Final = 4096
"""Secrets whose caller is remembered; begun anew beyond."""
_MOST_TERMS: Final = 4096
"""Models that terms are remembered for; begun anew beyond."""


class Caller:
    """Who asks. One for each secret of the table, and one for all who show none."""

    __slots__ = ("_by_model", "_is_anyone", "_policies", "expires_at", "id", "key")

    def __init__(
        self, key: KeyRecord, policies: Sequence[PolicyRecord] = (), *, is_anyone: bool = False
    ) -> None:
        self.key = key
        self.id = key.id
        self.expires_at = key.expires_at
        self._policies = policies
        self._is_anyone = is_anyone
        self._by_model: dict[str, Terms | None] = {}

    def terms(self, model: str) -> Terms | None:
        """How its requests for this model (`namespace/name`) are treated; None when it may not ask for it."""
        try:
            return self._by_model[model]
        except KeyError:
            found = Terms() if self._is_anyone else make_terms(self.key, self._policies, model)
            if len(self._by_model) >= _MOST_TERMS:
                self._by_model.clear()
            self._by_model[model] = found
            return found

    def may_ask(self, route: ModelRoute) -> bool:
        """Whether it has terms for the model."""
        return self.terms(route.model) is not None

    def refuse(self, asked: str, model: str, listed: list[str]) -> Refusal:
        """What it hears that asked for a model without having terms for it; `listed` are the names that it may ask for.

        Of another tenant's model it hears what it would hear if there were none.
        """
        if model.startswith(f"{self.key.tenant}/"):
            return model_not_allowed(self.id, asked)
        return model_not_found(asked, listed)


class Gate:
    """Finds the caller of a request by its secret's digest.

    A lookup by digest needs no comparison in constant time: what its timing could tell is a digest, and from that
    nobody finds a secret. Callers that were found are remembered by what they showed, in memory alone, where each of
    their requests has it anyway: a digest is a twentieth of a request's cost. Python's hashes of bytes are keyed by
    chance, so that this lookup's timing tells nothing either. What is unknown is not remembered.
    """

    __slots__ = ("_anyone", "_callers", "_shown", "version")

    def __init__(self, table: AccessTable) -> None:
        self.version = table.version
        policies = {each.name: each for each in table.policies}
        self._callers = {
            key.digest: Caller(key, [policies[name] for name in key.policies if name in policies])
            for key in table.keys
        }
        self._shown: dict[bytes, Caller] = {}
        self._anyone = None if table.requires_key else Caller(ANONYMOUS, is_anyone=True)

    def admit(self, authorization: bytes, api_key: bytes, now: float) -> Caller | Refusal:
        """The caller of a request, by its `Authorization` and `x-api-key` headers (empty: absent), at Unix time `now`.

        A key that was revoked is unknown. An expired one is refused even where none is needed: whoever shows it means
        to be treated by its terms.
        """
        scheme = authorization[:7]
        bears = scheme == b"Bearer " or scheme.lower() == _BEARER
        shown = authorization[7:].strip() if bears else api_key
        if shown:
            caller = self._shown.get(shown)
            if caller is None:
                caller = self._find(shown)
            if caller is not None:
                if caller.expires_at is not None and caller.expires_at <= now:
                    return key_expired(caller.id)
                return caller
        if self._anyone is not None:
            return self._anyone
        return key_unknown() if shown else key_missing()

    def _find(self, shown: bytes) -> Caller | None:
        caller = self._callers.get(sha256(shown).hexdigest())
        if caller is not None:
            if len(self._shown) >= _MOST_SHOWN:
                self._shown.clear()
            self._shown[shown] = caller
        return caller
