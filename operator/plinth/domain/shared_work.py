"""What planning computes once for all models that are alike: reading a config, a pool's place, fitting a replica to it.

A fleet has many models and few kinds of them. All steps are pure, so what is kept makes no difference to a plan.
"""

from __future__ import annotations

from plinth.domain.fitting import Fit, FitRefusal, FitRequest, fit_replica
from plinth.domain.fleet import Artifact, ArtifactRefusal, Engine
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.headers import TensorGroup
from plinth.domain.models.reading import read_model
from plinth.domain.places import FoundPlace, PlaceRefusal, find_place_in
from plinth.domain.pools import Pool

MOST_KEPT = 4096
"""Of each; with more, all are forgotten and those in use come back."""

_ModelKey = tuple[str, str, tuple[TensorGroup, ...]]


class SharedWork:
    """Answers of before, by all that they depend on."""

    def __init__(self) -> None:
        self._models: dict[_ModelKey, ModelArchitecture | ArtifactRefusal] = {}
        self._fits: dict[FitRequest, Fit | FitRefusal] = {}
        self._places: dict[tuple[str, Engine], tuple[Pool, FoundPlace | PlaceRefusal]] = {}
        """By pool and engine, of the pool as it was."""

    def read(self, artifact: Artifact) -> ModelArchitecture | ArtifactRefusal:
        """What the model is made of. Equal configs are told by their text: they hold lists, which have no hash."""
        key = artifact.format, repr(artifact.config), artifact.tensors
        found = self._models.get(key)
        if found is None:
            if len(self._models) >= MOST_KEPT:
                self._models.clear()
            found = self._models[key] = read_model(
                artifact.config, format=artifact.format, tensors=artifact.tensors
            )
        return found

    def place_in(self, pool: Pool, engine: Engine) -> FoundPlace | PlaceRefusal:
        """What the pool's nodes are to one replica."""
        known = self._places.get((pool.name, engine))
        if known is None or known[0] is not pool:
            known = self._places[pool.name, engine] = (pool, find_place_in(pool, engine))
        return known[1]

    def fit(self, request: FitRequest) -> Fit | FitRefusal:
        """The replica that fits."""
        found = self._fits.get(request)
        if found is None:
            if len(self._fits) >= MOST_KEPT:
                self._fits.clear()
            found = self._fits[request] = fit_replica(request)
        return found
