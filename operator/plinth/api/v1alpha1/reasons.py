"""Every condition type and reason that a status can show, each with a sentence that says what it means."""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """The aspects of a resource that Plinth reports on; all are set on the first pass."""

    ACCEPTED = "Accepted"
    PLANNED = "Planned"
    PLACED = "Placed"
    SERVING = "Serving"
    UPDATED = "Updated"
    OBJECTIVES_MET = "ObjectivesMet"
    AS_PREDICTED = "AsPredicted"
    METRICS_FRESH = "MetricsFresh"
    ROUTED = "Routed"
    STALLED = "Stalled"
    READY = "Ready"


CONDITION_SENTENCES: dict[ConditionType, str] = {
    ConditionType.ACCEPTED: "The spec is valid and can be acted on.",
    ConditionType.PLANNED: "A shape was found that fits the model and the pool.",
    ConditionType.PLACED: "Every wanted replica has a place.",
    ConditionType.SERVING: "At least one replica answers.",
    ConditionType.UPDATED: "The replicas that answer run what the spec asks for.",
    ConditionType.OBJECTIVES_MET: "TTFT and TPOT stay within the objectives.",
    ConditionType.AS_PREDICTED: "What the replicas measure is within 10% of what the plan predicted.",
    ConditionType.METRICS_FRESH: "The gateway's load report is recent enough to scale by.",
    ConditionType.ROUTED: "Every name, fallback and share of traffic that the spec asks for is in effect.",
    ConditionType.STALLED: "It will not get further until somebody acts; tools that wait for Ready stop waiting.",
    ConditionType.READY: "All is as the spec asks; `kubectl wait --for=condition=Ready` works at zero replicas too.",
}


class Reason(StrEnum):
    """Why a condition has its status."""

    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    NAME_COLLISION = "NameCollision"
    UNKNOWN_SOURCE = "UnknownSource"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_UNREADABLE = "ModelUnreadable"
    READING_MODEL = "ReadingModel"
    ENGINE_UNSUITABLE = "EngineUnsuitable"
    SHAPE_CHOSEN = "ShapeChosen"
    SHAPE_IMPOSSIBLE = "ShapeImpossible"
    POOL_NOT_FOUND = "PoolNotFound"
    NOT_ALLOWED = "NotAllowed"
    NO_NODES = "NoNodes"
    ALL_PLACED = "AllPlaced"
    OTHER_ACCELERATORS = "OtherAccelerators"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    WORKERS_STARTING = "WorkersStarting"
    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    DOWNLOADING = "Downloading"
    ENGINE_FAILED = "EngineFailed"
    UP_TO_DATE = "UpToDate"
    ROLLING_OUT = "RollingOut"
    ROLLOUT_STUCK = "RolloutStuck"
    SCALING = "Scaling"
    WITHIN_OBJECTIVES = "WithinObjectives"
    OBJECTIVES_MISSED = "ObjectivesMissed"
    NO_OBJECTIVES = "NoObjectives"
    NO_TRAFFIC = "NoTraffic"
    FIGURES_AGREE = "FiguresAgree"
    FIGURES_PART = "FiguresPart"
    NOT_MEASURED = "NotMeasured"
    REPORT_FRESH = "ReportFresh"
    REPORT_MISSING = "ReportMissing"
    AS_ASKED = "AsAsked"
    NAME_TAKEN = "NameTaken"
    UNKNOWN_MODEL = "UnknownModel"
    TRAFFIC_UNSHARED = "TrafficUnshared"
    CAPACITY_READY = "CapacityReady"
    CAPACITY_AWAY = "CapacityAway"
    REPLACING_WORKERS = "ReplacingWorkers"
    DELETING = "Deleting"
    WORKERS_FAILING = "WorkersFailing"
    NOT_STALLED = "NotStalled"
    NOT_EVALUATED = "NotEvaluated"


SENTENCES: dict[Reason, str] = {
    Reason.VALID: "The spec is valid.",
    Reason.INVALID_SPEC: "The newest edit is invalid and was refused; the last good one goes on.",
    Reason.NAME_COLLISION: "Another model already answers to this served name; give this one another spec.servedName.",
    Reason.UNKNOWN_SOURCE: "The source's scheme is not one that Plinth can read.",
    Reason.MODEL_NOT_FOUND: "Nothing was found at the model's source.",
    Reason.MODEL_UNREADABLE: "The model was found, but what is needed to plan for it could not be read.",
    Reason.READING_MODEL: "The model's configuration is being read.",
    Reason.ENGINE_UNSUITABLE: "The engine cannot run a model of this format on this hardware.",
    Reason.SHAPE_CHOSEN: "A shape was found that fits the model and the pool.",
    Reason.SHAPE_IMPOSSIBLE: "No shape fits: the message names each one tried and why it does not.",
    Reason.POOL_NOT_FOUND: "The GPUPool that the spec names does not exist.",
    Reason.NOT_ALLOWED: "The pool does not allow what the spec asks of it: code of its own, or a volume.",
    Reason.NO_NODES: "The pool has no nodes at present.",
    Reason.ALL_PLACED: "Every wanted replica has a place.",
    Reason.OTHER_ACCELERATORS: "A replica computes on other accelerators than it was given; the message has both.",
    Reason.INSUFFICIENT_CAPACITY: "Not every wanted replica fits; the message says who holds the capacity.",
    Reason.WORKERS_STARTING: "The replicas have their places on Ray workers that are being brought up.",
    Reason.SERVING: "Replicas answer requests.",
    Reason.SCALED_TO_ZERO: "No replica runs; the next request is held while one starts.",
    Reason.STARTING: "Replicas are starting.",
    Reason.DOWNLOADING: "A replica is fetching the model.",
    Reason.ENGINE_FAILED: "The engine did not start or died; the message holds its last meaningful log lines.",
    Reason.UP_TO_DATE: "All replicas run what the spec asks for.",
    Reason.ROLLING_OUT: "A new revision is taking over from the old one.",
    Reason.ROLLOUT_STUCK: "The new revision does not become ready; the old one keeps serving.",
    Reason.SCALING: "Replicas are being added or drained.",
    Reason.WITHIN_OBJECTIVES: "The objectives are met.",
    Reason.OBJECTIVES_MISSED: "More requests than the percentile allows took longer than the objectives.",
    Reason.NO_OBJECTIVES: "The spec states no TTFT or TPOT objective.",
    Reason.NO_TRAFFIC: "No request of the stated workload came lately.",
    Reason.FIGURES_AGREE: "Weights, KV cache and throughput are as predicted, within 10%.",
    Reason.FIGURES_PART: "What was measured parts from what was predicted by more than 10%; the message has both.",
    Reason.NOT_MEASURED: "No replica has told its figures yet; they come with its first answer.",
    Reason.REPORT_FRESH: "The gateway reports its load.",
    Reason.REPORT_MISSING: "The gateway has not reported lately; load is unknown, so replicas are left as they are.",
    Reason.AS_ASKED: "Requests reach the model as its spec says.",
    Reason.NAME_TAKEN: "A name that the spec asks for leads to another model; the message says which.",
    Reason.UNKNOWN_MODEL: "The spec names a model that is not there, or that cannot do what this one does.",
    Reason.TRAFFIC_UNSHARED: "The model cannot take the part of another's requests that the spec asks for.",
    Reason.CAPACITY_READY: "The pool's nodes are there.",
    Reason.CAPACITY_AWAY: "Ray does not answer; what is known of the pool is old.",
    Reason.REPLACING_WORKERS: "The pool's workers are being replaced; models move as room allows.",
    Reason.DELETING: "The pool is being deleted; what runs on it ends in peace first.",
    Reason.WORKERS_FAILING: "Pods of the pool do not come up, or were refused; the message has Kubernetes' own words.",
    Reason.NOT_STALLED: "Nothing waits for a person.",
    Reason.NOT_EVALUATED: "Not known yet: an earlier condition must hold first.",
}
