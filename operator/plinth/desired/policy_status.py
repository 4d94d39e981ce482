"""What a QuotaPolicy's status says: its limits in words, and how many keys name it."""

from __future__ import annotations

from plinth.api.v1alpha1 import ConditionType, QuotaPolicy, QuotaPolicyStatus, Reason
from plinth.desired.statuses import date_conditions
from plinth.domain.fleet import Verdict
from plinth.domain.policies import limit_in_words, policy_record
from plinth.domain.quantities import plural


def policy_status(policy: QuotaPolicy, keys: int, now: float, *, invalid_edit: str = "") -> QuotaPolicyStatus:
    """The whole status; `policy` carries the one before it.

    Args:
        policy: in its last good version.
        keys: how many that open anything name it.
        now: Unix seconds.
        invalid_edit: what is wrong with a newer version.
    """
    record = policy_record(policy.model_dump(mode="json", by_alias=True, exclude={"status"}))
    reason = Reason.INVALID_SPEC if invalid_edit else Reason.VALID
    verdicts = (
        Verdict(type=ConditionType.ACCEPTED, status=not invalid_edit, reason=reason, message=invalid_edit),
        Verdict(
            type=ConditionType.READY,
            status=True,
            reason=Reason.VALID,
            message=f"{plural(keys, 'key')} may use {', '.join(policy.spec.models) or 'every model'}",
        ),
    )
    generation = policy.metadata.generation
    return QuotaPolicyStatus(
        observed_generation=generation,
        keys=keys,
        limits=[limit_in_words(limit) for limit in record.limits],
        reason=reason,
        conditions=date_conditions(verdicts, policy.status.conditions, generation, now),
    )
