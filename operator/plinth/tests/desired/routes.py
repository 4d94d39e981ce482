"""Route tables as Hypothesis draws them: any that the planner could make, and slices that nobody should have written."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from plinth.desired.endpoint_slices import Owner, marker, owner_reference, slices_of
from plinth.domain.traffic import (
    Availability,
    ModelRoute,
    ObjectiveRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
    Strategy,
    TrafficShare,
)

RELEASE = "plinth-system"
OWNER: Owner = owner_reference("chat", "4b1d")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
texts = st.lists(text, max_size=3)
label = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
hosts = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
objectives = st.builds(
    ObjectiveRoute,
    ttft_milliseconds=st.none() | st.integers(1, 10**6),
    tpot_milliseconds=st.none() | st.integers(1, 10**6),
    input_tokens=st.integers(1, 10**6),
    output_tokens=st.integers(1, 10**6),
)


@st.composite
def replicas(draw: st.DrawFn, model: str) -> ReplicaRoute:
    revision, ordinal = draw(st.from_regex(r"[0-9a-f]{8}", fullmatch=True)), draw(st.integers(0, 999))
    slot = f"{model.replace('/', '.')}.{revision}.{ordinal}"
    return ReplicaRoute(
        slot=slot,
        host=draw(hosts),
        port=draw(st.integers(1, 65_535)),
        path=draw(st.sampled_from(["", f"/{slot}", "/x"])),
        state=draw(st.sampled_from(list(ReplicaState))),
        concurrency=draw(st.integers(1, 10_000)),
        kind=draw(text),
        kv_tokens=draw(st.integers(0, 2**40)),
        engine=draw(st.sampled_from(["", "VLLM", "LlamaCpp"])),
    )


@st.composite
def shares(draw: st.DrawFn, model: str) -> tuple[TrafficShare, ...]:
    """Up to four, of a quarter of the requests at most each."""
    others = draw(st.lists(label, max_size=4, unique=True).map(lambda names: [f"c-{name}" for name in names]))
    return tuple(
        TrafficShare(
            model=f"{model.partition('/')[0]}/{name}",
            percent=draw(st.integers(0, 25)),
            mirror_percent=draw(st.integers(0, 25)),
        )
        for name in others
        if name != model.partition("/")[2]
    )


@st.composite
def routes(draw: st.DrawFn, model: str) -> ModelRoute:
    found = draw(st.lists(replicas(model), max_size=4, unique_by=lambda each: each.slot))
    return ModelRoute(
        model=model,
        # A name with a blank at its end is never another model's `namespace/name`.
        names=(*draw(st.lists(text.map(lambda name: f"{name} "), max_size=2, unique=True)), model),
        task=draw(st.sampled_from(["Generate", "Embed", "Rerank"])),
        created=draw(st.integers(0, 2**40)),
        availability=draw(st.sampled_from(list(Availability))),
        message=draw(text),
        replicas=tuple(sorted(found, key=lambda each: each.slot)),
        objectives=draw(st.none() | objectives),
        revision=draw(text),
        aliases=tuple(draw(texts)),
        fallbacks=tuple(draw(texts)),
        adapters=tuple(f"{model}:{name}" for name in draw(texts)),
        strategy=draw(st.sampled_from(list(Strategy))),
        session_header=draw(text),
        shares=draw(shares(model)),
    )


@st.composite
def tables(draw: st.DrawFn) -> RouteTable:
    keys = draw(st.sets(st.tuples(label, label), max_size=4))
    models = tuple(draw(routes(f"{namespace}/{name}")) for namespace, name in keys)
    in_order = tuple(sorted(models, key=lambda each: each.model))
    return RouteTable(version=draw(st.integers(1, 2**53)), models=in_order)


def slices_of_table(table: RouteTable) -> list[dict[str, Any]]:
    written = [each for route in table.models for each in slices_of(route, OWNER)]
    return [*written, marker(RELEASE, table.version)]
