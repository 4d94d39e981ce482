"""A plan as Ray Serve's whole config, and back: one application with one replica for each slot that should exist.

Read in Ray 2.57: `GET /api/serve/applications/` gives back each application's config as it was PUT (unset fields stay
unset, numbers become floats), so comparing finds drift whoever caused it. Replicas ask for no CPU (`num_cpus: 0`):
threads are shared; a CPU replica is counted by its memory, one on accelerators by whole accelerators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from plinth.desired import names
from plinth.domain.fleet import EngineSpec, FleetPlan, Needs, SlotAction, SlotName, SlotPlace, SlotPlan

ASKED_OF_RAY = {SlotAction.CREATE, SlotAction.KEEP, SlotAction.DRAIN}
DELETING = "DELETING"
MAX_ONGOING_REQUESTS = 100_000
"""Never the limit: the gateway decides how much a replica gets."""
GRACEFUL_SHUTDOWN_SECONDS = 10.0
SHUTDOWN_POLL_SECONDS = 0.2
HEALTH_CHECK_PERIOD_SECONDS = 5.0
HEALTH_CHECK_TIMEOUT_SECONDS = 120.0
"""A busy engine may be slow to answer Serve's check; a dead process fails it at once."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is the same for every replica of a Ray. Secrets are only ever passed as the paths of files."""

    secret_file: str
    cache_dir: str
    http_host: str
    http_port: int
    keep_alive_timeout_s: int = 86_400
    """Long, since the gateway holds an idle connection to each replica to learn of its death."""
    secrets_dir: str | None = None
    """Models' credentials as files; None: they are handed over, replica by replica."""
    shared_models: str | None = None
    """`file://` must lie below it; None: it may name any file."""
    volumes: str | None = None
    """Volume claims by name; None: there are none."""
    trust_remote_code: bool = False
    """Whether engine arguments may reach further than the model."""


def serve_config(
    plan: FleetPlan,
    settings: ServeSettings,
    *,
    ray: str = "",
    foreign: Iterable[Mapping[str, Any]] = (),
    deployed: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The body of the PUT to one Ray. A PUT says everything, so others' applications (`foreign`) are said again as they are.

    So are slots whose arguments another version of Plinth wrote (`deployed`: their configs by name, from
    `deployed_configs`): saying them in this version's words would restart them and cut their requests.
    """
    found = deployed or {}
    slots = [slot for slot in _all_slots(plan) if slot.action in ASKED_OF_RAY and slot.ray == ray]
    ours = [
        application
        for slot in sorted(slots, key=lambda slot: slot.name)
        if (application := _application(slot, settings, found.get(names.application_name(slot.name))))
    ]
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": settings.http_host,
            "port": settings.http_port,
            "keep_alive_timeout_s": settings.keep_alive_timeout_s,
        },
        "applications": [
            *sorted((dict(each) for each in foreign), key=lambda each: str(each["name"])),
            *ours,
        ],
    }


def asked_of_ray(plan: FleetPlan, ray: str) -> frozenset[SlotName]:
    """The slots that one Ray is to have."""
    return frozenset(
        slot.name for slot in _all_slots(plan) if slot.action in ASKED_OF_RAY and slot.ray == ray
    )


def same_config(wanted: Mapping[str, Any], serve: Mapping[str, Any]) -> bool:
    """Whether a PUT of `wanted` would change nothing, given the whole answer of `GET /api/serve/applications/`."""
    deployed = deployed_configs(serve)
    asked = {application["name"]: application for application in wanted["applications"]}
    return deployed.keys() == asked.keys() and all(_same(asked[name], deployed[name]) for name in asked)


def deployed_configs(serve: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each application's config as it was PUT, of those that are not on their way out."""
    return {
        name: application["deployed_app_config"]
        for name, application in serve.get("applications", {}).items()
        if application.get("deployed_app_config") and application.get("status") != DELETING
    }


@dataclass(frozen=True, kw_only=True)
class DeployedSlot:
    """A slot as its deployed config tells it; what cannot be read is None, zero or empty."""

    name: SlotName | None
    spec: EngineSpec | None
    needs: Needs
    place: tuple[SlotPlace, ...]


def parse_slot(application: Mapping[str, Any]) -> DeployedSlot:
    """The slot of an application, by its deployed config."""
    spec = _read_spec(application)
    deployment: Mapping[str, Any] = next(iter(application.get("deployments") or ()), {})
    bundles: Sequence[Mapping[str, Any]] = deployment.get("placement_group_bundles") or ({},)
    accelerators, stages = int(bundles[0].get("GPU", 0)), spec.pipeline_parallel if spec else 1
    needs = Needs(
        accelerators=accelerators,
        memory_bytes=int(bundles[0].get("memory", 0)),
        nodes=len(bundles),
        stages=max(1, stages // len(bundles)) if accelerators else 1,
    )
    return DeployedSlot(
        name=SlotName.parse(str(application.get("name", ""))),
        spec=spec,
        needs=needs,
        place=_read_place(application, deployment),
    )


def _read_place(application: Mapping[str, Any], deployment: Mapping[str, Any]) -> tuple[SlotPlace, ...]:
    """The nodes by the bundles' label selectors; their accelerators as the replica was told, if it was."""
    selectors = deployment.get("placement_group_bundle_label_selector") or ()
    nodes = [str(selector.get(names.NODE_ID_LABEL, "")) for selector in selectors]
    try:
        told = msgspec.convert((application.get("args") or {}).get("accelerators", []), list[tuple[int, ...]])
    except (AttributeError, msgspec.ValidationError):
        told = []
    indices = told if len(told) == len(nodes) else [()] * len(nodes)
    return tuple(map(SlotPlace, nodes, indices))


def replaced_slot(application: Mapping[str, Any]) -> SlotName | None:
    """The slot in whose stead this one was started, by its deployed config."""
    args = application.get("args")
    return SlotName.parse(str(args.get("replaces", ""))) if isinstance(args, Mapping) else None


def _all_slots(plan: FleetPlan) -> Iterable[SlotPlan]:
    return chain(*(model.slots for model in plan.models), plan.leaving)


def _application(
    slot: SlotPlan, settings: ServeSettings, deployed: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The slot in this version's words, unless Ray has other arguments for it; None where nothing is known of it."""
    wanted = _make_application(slot, settings)
    if deployed is None or (wanted and _same(wanted["args"], deployed.get("args"))):
        return wanted
    return deployed


def _spec_as_json(spec: EngineSpec) -> Any:
    """The spec by way of JSON, as Ray gives it back: a tuple would never equal the list that comes."""
    return msgspec.json.decode(msgspec.json.encode(spec))


def _make_application(slot: SlotPlan, settings: ServeSettings) -> dict[str, Any] | None:
    """The slot in this version's words; None where its spec is unknown, for then there is nothing to say."""
    if slot.spec is None:
        return None
    return {
        "name": names.application_name(slot.name),
        "route_prefix": names.route_prefix(slot.name),
        "import_path": names.IMPORT_PATH,
        "args": {
            "spec": _spec_as_json(slot.spec),
            "slot": str(slot.name),
            "runtime": _runtime(settings),
            **_accelerators(slot),
            # Not for the engine: Ray keeps it, so that it is known as long as the replica is there.
            **({"replaces": str(slot.replaces)} if slot.replaces else {}),
        },
        "logging_config": {"enable_access_log": False},
        "deployments": [_deployment(slot)],
    }


def _accelerators(slot: SlotPlan) -> dict[str, Any]:
    """Which accelerators its engine is to compute on, node by node; left out where Ray chooses."""
    told = [list(each.accelerators) for each in slot.place]
    return {"accelerators": told} if any(told) else {}


def _runtime(settings: ServeSettings) -> dict[str, Any]:
    """What `plinth.engine.slot.RuntimePaths` reads; what is absent there is left out."""
    told = {
        "secret_file": settings.secret_file,
        "secrets_dir": settings.secrets_dir,
        "cache_dir": settings.cache_dir,
        "shared_models": settings.shared_models,
        "volumes": settings.volumes,
        "trust_remote_code": settings.trust_remote_code,
    }
    return {name: value for name, value in told.items() if value}


def _deployment(slot: SlotPlan) -> dict[str, Any]:
    bundle, actor = _resources(slot.needs)
    return {
        "name": names.DEPLOYMENT,
        "num_replicas": 1,
        "max_ongoing_requests": MAX_ONGOING_REQUESTS,
        "graceful_shutdown_timeout_s": GRACEFUL_SHUTDOWN_SECONDS,
        "graceful_shutdown_wait_loop_s": SHUTDOWN_POLL_SECONDS,
        "health_check_period_s": HEALTH_CHECK_PERIOD_SECONDS,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_SECONDS,
        "ray_actor_options": actor,
        # One bundle a node. Serve's replica runs in the first and takes all of it.
        "placement_group_bundles": [bundle] * slot.needs.nodes,
        "placement_group_bundle_label_selector": [{names.NODE_ID_LABEL: each.node_id} for each in slot.place],
    }


def _resources(needs: Needs) -> tuple[dict[str, float], dict[str, float]]:
    """A node's bundle and the actor's share of the first, which is all of it. Ray refuses a bundle of zeros only."""
    bundle: dict[str, float] = {}
    actor: dict[str, float] = {"num_cpus": 0}
    if needs.accelerators:
        bundle["GPU"] = actor["num_gpus"] = needs.accelerators
    if needs.memory_bytes or not needs.accelerators:
        bundle["memory"] = actor["memory"] = max(needs.memory_bytes, 1)
    return bundle, actor


def _read_spec(application: Mapping[str, Any]) -> EngineSpec | None:
    args = application.get("args")
    if not isinstance(args, Mapping) or application.get("import_path") != names.IMPORT_PATH:
        return None
    try:
        return msgspec.convert(args.get("spec"), EngineSpec)
    except msgspec.ValidationError:
        return None


def _same(wanted: Any, deployed: Any) -> bool:
    """Equal up to what Ray fills in by itself: an unset field comes back absent, or as nothing."""
    if isinstance(wanted, Mapping) and isinstance(deployed, Mapping):
        return all(_same(wanted.get(key), deployed.get(key)) for key in wanted.keys() | deployed.keys())
    if isinstance(wanted, list) and isinstance(deployed, list):
        return len(wanted) == len(deployed) and all(map(_same, wanted, deployed))
    return bool(wanted == deployed) or (_is_nothing(wanted) and _is_nothing(deployed))


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or value in ({}, [])
