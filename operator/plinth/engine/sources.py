"""From source URIs to files on this machine: what the replica does before it loads anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import SecretStr

from plinth.domain.sources import Source, SourceScheme, parse_source, select_files
from plinth.engine.adapters import read_adapter
from plinth.engine.hub import describe, fetch_repository
from plinth.engine.local_sources import SourcePlaces, find_local
from plinth.engine.seam import LocalAdapter, LocalModel, Progress, SourceError


@dataclass(frozen=True, kw_only=True)
class ModelFetcher:
    """Finds one model and its adapters, fetching them into the shared cache if they are not on this machine."""

    source: str
    revision: str | None
    places: SourcePlaces
    cache_dir: Path
    """For what anybody may download."""
    private_cache_dir: Path
    """For what only a token opens: shared by the replicas of one namespace."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Sources by name."""

    def __call__(self, token: SecretStr | None, progress: Progress) -> LocalModel:
        """The model's files. Blocks for as long as a download takes.

        Raises:
            SourceError: the source cannot be had, and what would help.
        """
        model = self._find(self.source, self.revision, token, progress)
        adapters = {name: self._find_adapter(name, token, progress) for name in self.adapters}
        return replace(model, adapters=adapters)

    def _find_adapter(self, name: str, token: SecretStr | None, progress: Progress) -> LocalAdapter:
        source = self.adapters[name]
        try:
            return read_adapter(self._find(source, None, token, progress))
        except ValueError as error:
            raise SourceError(f"the adapter {name}: {source}: {error}") from None
        except SourceError as error:
            raise SourceError(f"the adapter {name}: {error}") from None

    def _find(
        self, text: str, revision: str | None, token: SecretStr | None, progress: Progress
    ) -> LocalModel:
        try:
            source = parse_source(text, revision)
            if source.scheme is SourceScheme.HF:
                return self._fetch(source, token, progress)
            found = find_local(source, self.places)
            return describe(found.folder, select_files(found.sizes(), found.file))
        except ValueError as error:
            raise SourceError(f"{text}: {error}") from None
        except OSError as error:
            raise SourceError(f"{text}: cannot be read: {error.strerror}") from None

    def _fetch(self, source: Source, token: SecretStr | None, progress: Progress) -> LocalModel:
        place = self.cache_dir if token is None else self.private_cache_dir
        return fetch_repository(source, token=token, cache_dir=place, progress=progress)
