"""Model sources as text: what a source URI means, and which of a repository's files make up the model.

Pure: admission refuses a source that nothing could fetch, the planner reads the format from file names, and
the engine fetches what is named here. All three must agree, so the rules stand in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from plinth.domain.fleet import ModelFormat
from plinth.domain.quantities import list_some

_REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CLAIM = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_SPLIT_GGUF = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")
_BESIDE_SAFETENSORS = (".json", ".model", ".txt", ".jinja", ".tiktoken")
"""Configuration and tokenizer files; never `.py`, since no code that came with a model is run."""

SHARED_MODELS = "/models"
"""In a cluster, `file://` reaches what a pool's pod template mounts here, and nothing else of the pod."""
VOLUMES = "/plinth/volumes"
"""In a cluster, where the pods of a pool have the volume claims of its namespace, each under its name."""
_SUPPORTED = "hf://, file://, pvc:// or package://"


class SourceScheme(StrEnum):
    """The kinds of place that a model can come from."""

    HF = "hf"
    """A repository of the Hugging Face hub, or of a mirror that speaks its protocol."""
    FILE = "file"
    """A file or folder of the node that the replica runs on."""
    VOLUME = "pvc"
    """A file or folder on a volume claim of the model's namespace."""
    PACKAGE = "package"
    """Data of an installed Python package."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model source, taken apart."""

    scheme: SourceScheme
    origin: str
    """`org/name` of a repository, the absolute path, the volume claim, or the Python module."""
    file: str | None = None
    """The one file meant, relative to the repository or module; None: found by `select_files`."""
    path: str = ""
    """The file or folder on the claim; empty: all of it."""
    revision: str | None = None
    """Branch, tag or commit of a repository; None: its main branch."""


def parse_source(text: str, revision: str | None = None) -> Source:
    """The source that `text` names, pinned to `revision` (`spec.model.revision`) if that is given.

    Raises:
        ValueError: the rule that the text breaks, and what would work.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(
            f"{text!r} has no scheme; write hf://org/name, file:///path, pvc://claim/path or package://module/file"
        )
    if scheme not in set(SourceScheme):
        raise ValueError(f"{scheme}:// is not supported; use {_SUPPORTED}")
    if not rest:
        raise ValueError(f"{text!r} names nothing after {scheme}://")
    if scheme == SourceScheme.HF:
        return _parse_hf(rest, revision)
    if revision is not None:
        raise ValueError(f"a revision pins hf:// sources only; {scheme}:// has none, remove it")
    parse = {SourceScheme.FILE: _parse_file, SourceScheme.VOLUME: _parse_volume}
    return parse.get(SourceScheme(scheme), _parse_package)(rest)


def _parse_hf(rest: str, pinned: str | None) -> Source:
    path, at, revision = rest.partition("@")
    if at and not revision:
        raise ValueError(f"hf://{rest} has an empty revision after @; name one or drop the @")
    if revision.endswith((".gguf", ".safetensors")):
        raise ValueError(f"hf://{rest}: the revision comes last; write hf://org/name/file.gguf@revision")
    if revision and pinned is not None and pinned != revision:
        raise ValueError(f"hf://{rest} pins {revision}, and revision says {pinned}; keep one of them")
    organisation, _, tail = path.partition("/")
    name, _, file = tail.partition("/")
    if not (_REPOSITORY_NAME.fullmatch(organisation) and _REPOSITORY_NAME.fullmatch(name)):
        raise ValueError(
            f"hf://{rest} must be hf://org/name, hf://org/name@revision or hf://org/name/file.gguf"
        )
    return Source(
        scheme=SourceScheme.HF,
        origin=f"{organisation}/{name}",
        file=_relative(file, f"hf://{rest}") if file else None,
        revision=revision or pinned,
    )


def _parse_file(rest: str) -> Source:
    if not rest.startswith("/"):
        raise ValueError(f"file://{rest} must be an absolute path with three slashes: file:///{rest}")
    if ".." in PurePosixPath(rest).parts:
        raise ValueError(f"file://{rest} must not contain '..'; write the path it means")
    return Source(scheme=SourceScheme.FILE, origin=str(PurePosixPath(rest)))


def _parse_volume(rest: str) -> Source:
    claim, _, path = rest.partition("/")
    if not _CLAIM.fullmatch(claim):
        raise ValueError(
            f"pvc://{rest}: {claim!r} is no name of a PersistentVolumeClaim; write pvc://claim/path"
        )
    path = path.rstrip("/")
    return Source(
        scheme=SourceScheme.VOLUME, origin=claim, path=_relative(path, f"pvc://{rest}") if path else ""
    )


def _parse_package(rest: str) -> Source:
    module, _, file = rest.partition("/")
    if not _MODULE.fullmatch(module):
        raise ValueError(f"package://{rest}: {module!r} is not a top-level Python module's name")
    return Source(
        scheme=SourceScheme.PACKAGE,
        origin=module,
        file=_relative(file, f"package://{rest}") if file else None,
    )


def _relative(file: str, text: str) -> str:
    parts = file.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{text}: {file!r} must be a plain path inside it, without '..' or empty parts")
    return file


def detect_format(filenames: Iterable[str]) -> ModelFormat:
    """The format that a model with these files is in; safetensors where both are there.

    Raises:
        ValueError: none of the files holds weights in a format that an engine here reads.
    """
    names = list(filenames)
    if any(name.endswith(".safetensors") for name in names):
        return ModelFormat.SAFETENSORS
    if any(name.endswith(".gguf") for name in names):
        return ModelFormat.GGUF
    raise ValueError(
        f"no .safetensors or .gguf file among {list_some(names or ['no files'])}; name a model in one of these formats"
    )


def select_files(filenames: Iterable[str], named: str | None = None) -> tuple[str, ...]:
    """The files that make up the model, first the one to open: all that has to be fetched, and no more.

    `named` is the file that the source names. A GGUF model in parts is named by any of them.

    Raises:
        ValueError: the file is not there, no file holds weights, or several models are there and none is named.
    """
    names = sorted(filenames)
    if named is not None and named not in names:
        raise ValueError(f"has no file {named}; it has {list_some(names or ['no files'])}")
    if named is not None and not named.endswith(".gguf"):
        raise ValueError(
            f"{named} is not a .gguf file; name the repository or folder alone for other formats"
        )
    if named is not None:
        return _gguf_parts(names, named)
    if detect_format(names) is ModelFormat.SAFETENSORS:
        return _safetensors(names)
    firsts = sorted({_gguf_parts(names, name)[0] for name in names if name.endswith(".gguf")})
    if len(firsts) > 1:
        raise ValueError(f"holds {len(firsts)} models; name one of them: {list_some(firsts)}")
    return _gguf_parts(names, firsts[0])


def _gguf_parts(names: list[str], name: str) -> tuple[str, ...]:
    split = _SPLIT_GGUF.fullmatch(name)
    if split is None:
        return (name,)
    count = int(split["parts"])
    wanted = [f"{split['stem']}-{part:05d}-of-{split['parts']}.gguf" for part in range(1, count + 1)]
    missing = [part for part in wanted if part not in names]
    if missing:
        raise ValueError(f"{name} is one of {count} parts, and {list_some(missing)} is not there")
    return tuple(wanted)


def _safetensors(names: list[str]) -> tuple[str, ...]:
    """Top-level weights, configuration and tokenizer; of subfolders only their configuration (pooling layers)."""
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    if any(not name.startswith("consolidated") for name in weights):
        # Some repositories hold the same weights twice, the second time in their author's own layout.
        weights = [name for name in weights if not name.startswith("consolidated")]
    if not weights:
        raise ValueError(
            "holds .safetensors files in subfolders only; name a repository with them at its top"
        )
    beside = [name for name in top if name.endswith(_BESIDE_SAFETENSORS)]
    nested = [
        name
        for name in names
        if name.count("/") == 1 and name.endswith("/config.json") and not name.startswith(".")
    ]
    return (*weights, *beside, *nested)
