"""From a source URI to files on this machine: what the replica does before it loads anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from plinth.domain.sources import Source, SourceScheme, parse_source, select_files
from plinth.engine.hub import describe, fetch_repository
from plinth.engine.local_sources import SourcePlaces, find_local
from plinth.engine.seam import LocalModel, Progress, SourceError


@dataclass(frozen=True, kw_only=True)
class ModelFetcher:
    """Finds one model, fetching it into the shared cache if it is not on this machine."""

    source: str
    revision: str | None
    places: SourcePlaces
    cache_dir: Path
    """For what anybody may download."""
    private_cache_dir: Path
    """For what only a token opens: shared by the replicas of one namespace."""

    def __call__(self, token: SecretStr | None, progress: Progress) -> LocalModel:
        """The model's files. Blocks for as long as a download takes.

        Raises:
            SourceError: the source cannot be had, and what would help.
        """
        try:
            source = parse_source(self.source, self.revision)
            if source.scheme is SourceScheme.HF:
                return self._fetch(source, token, progress)
            found = find_local(source, self.places)
            return describe(found.folder, select_files(found.sizes(), found.file))
        except ValueError as error:
            raise SourceError(f"{self.source}: {error}") from None
        except OSError as error:
            raise SourceError(f"{self.source}: cannot be read: {error.strerror}") from None

    def _fetch(self, source: Source, token: SecretStr | None, progress: Progress) -> LocalModel:
        place = self.cache_dir if token is None else self.private_cache_dir
        return fetch_repository(source, token=token, cache_dir=place, progress=progress)
