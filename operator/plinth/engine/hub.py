"""Fetches `hf://` sources into a cache that all replicas of a node share.

huggingface_hub downloads, resumes a connection that breaks, and keeps whole files across attempts. This adds: one
downloader at a time per repository (the others wait and show the same progress), only the files that the model
needs, a note of what is complete (a pinned commit then needs no hub at all), and errors that say what to change.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
import msgspec
from huggingface_hub.utils.tqdm import disable_progress_bars
from pydantic import SecretStr

from plinth.domain.sources import Source, detect_format, select_files
from plinth.engine.hub_refusals import REFUSALS, UNREACHABLE, explain_refusal
from plinth.engine.locking import only_one
from plinth.engine.seam import LocalModel, Progress, SourceError

_LOOK_SECONDS = 0.5
_METADATA_SECONDS = 30.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


_Credential = str | Literal[False]
"""A token, or False and never None: then no token that lies around on the machine is sent."""


class _Wanted(msgspec.Struct, frozen=True):
    """What a commit of a repository holds of a model: its files, and the size of each blob in the cache."""

    commit: str
    files: tuple[str, ...]
    blobs: dict[str, int]


def fetch_repository(
    source: Source, *, token: SecretStr | None, cache_dir: Path, progress: Progress
) -> LocalModel:
    """The model's files, downloaded unless they are there.

    Raises:
        SourceError: the hub refuses, cannot be reached, or has no such model; the text names what to change.
        ValueError: the repository's files do not make up one model.
    """
    place = _Place(cache_dir / "hub", source)
    pinned = source.revision is not None and _COMMIT.fullmatch(source.revision) is not None
    complete = place.complete()
    if pinned and complete is not None:
        return complete
    try:
        return _download(source, token.get_secret_value() if token else False, place, progress)
    except REFUSALS as error:
        if isinstance(error, UNREACHABLE) and complete is not None:
            return complete
        message = explain_refusal(source, error, with_token=token is not None)
        if isinstance(error, UNREACHABLE):
            message += ", and it is not in the cache"
        raise SourceError(message) from None


def _download(source: Source, credential: _Credential, place: _Place, progress: Progress) -> LocalModel:
    disable_progress_bars()  # the log is for causes of failure
    progress.saying(f"asking the hub for {source.origin}")
    wanted = _ask(source, credential)
    waiting = f"waiting for another replica that downloads {source.origin}"
    with _following(place.blobs, wanted, progress), only_one(place.notes / "lock", waiting, progress):
        progress.saying(f"downloading {source.origin}")
        for left in place.blobs.glob("*.incomplete"):
            left.unlink()  # of a downloader that was killed; none is at work while the lock is held
        huggingface_hub.snapshot_download(
            source.origin,
            revision=wanted.commit,
            allow_patterns=list(wanted.files),
            cache_dir=place.hub_dir,
            token=credential,
        )
        place.note(wanted)
    return place.describe(wanted)


def _ask(source: Source, credential: _Credential) -> _Wanted:
    """What the revision points at now, and what of it the model needs."""
    found = huggingface_hub.HfApi(token=credential).model_info(
        source.origin, revision=source.revision, files_metadata=True, timeout=_METADATA_SECONDS
    )
    siblings = {sibling.rfilename: sibling for sibling in found.siblings or []}
    files = select_files(siblings, source.file)
    blobs = {}
    for name in files:
        sibling = siblings[name]
        blob = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
        blobs[blob or name] = sibling.size or 0
    return _Wanted(found.sha or "", files, blobs)


@dataclass(frozen=True)
class _Place:
    """Where a source lies in the cache, in huggingface_hub's own layout, and our notes beside it."""

    hub_dir: Path
    source: Source

    @property
    def folder(self) -> Path:
        return self.hub_dir / f"models--{self.source.origin.replace('/', '--')}"

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    @property
    def notes(self) -> Path:
        return self.folder / "plinth"

    def _note(self, revision: str) -> Path:
        return self.notes / f"{revision} {self.source.file or ''}".replace("/", "--").strip()

    def note(self, wanted: _Wanted) -> None:
        """Write down that all files are here, under the commit and under the name that led to it."""
        for revision in {wanted.commit, self.source.revision or "main"}:
            note = self._note(revision)
            fresh = note.with_name(f"{note.name}.new")
            fresh.write_bytes(msgspec.json.encode(wanted))
            fresh.replace(note)

    def complete(self) -> LocalModel | None:
        """The model as noted when it was last complete; None if it never was, or files have gone since."""
        try:
            noted = self._note(self.source.revision or "main").read_bytes()
            return self.describe(msgspec.json.decode(noted, type=_Wanted))
        except (OSError, msgspec.MsgspecError):
            return None

    def describe(self, wanted: _Wanted) -> LocalModel:
        folder = self.folder / "snapshots" / wanted.commit
        return describe(folder, wanted.files)


def describe(folder: Path, files: tuple[str, ...]) -> LocalModel:
    """The model made up of these files of this folder: a GGUF's path is the file's, any other's the folder."""
    sizes = {name: (folder / name).stat().st_size for name in files}
    weights = sum(size for name, size in sizes.items() if name.endswith((".gguf", ".safetensors")))
    path = folder / files[0] if files[0].endswith(".gguf") else folder
    return LocalModel(path=path, format=detect_format(files), weights_bytes=weights)


@contextmanager
def _following(blobs: Path, wanted: _Wanted, progress: Progress) -> Iterator[None]:
    """Report the bytes on disk while the block runs: true for whoever downloads, and for those who wait for it."""
    ended = threading.Event()
    total = sum(wanted.blobs.values())

    def follow() -> None:
        while not ended.wait(_LOOK_SECONDS):
            progress.moved(sum(_present(blobs, blob) for blob in wanted.blobs), total)

    thread = threading.Thread(target=follow, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _present(blobs: Path, blob: str) -> int:
    try:
        return (blobs / blob).stat().st_size
    except OSError:
        return sum(_size(part) for part in blobs.glob(f"{blob}.*.incomplete"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
