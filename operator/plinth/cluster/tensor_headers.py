"""What the headers of a model's files say of its tensors, gathered from all files at once and bounded in bytes and time.

A model can be planned for by its config alone, so where they cannot be had nothing is said and the log tells why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain

import msgspec

from plinth.cluster.repositories import Repository
from plinth.cluster.safetensors_header import LENGTH_BYTES, SafetensorsError, header_length, parse_header
from plinth.domain.models.headers import StoredTensor, TensorGroup, group_tensors
from plinth.engine.hub_refusals import REFUSALS
from plinth.engine.seam import SourceError

log = logging.getLogger(__name__)
_one_parses = threading.Lock()
"""Parsing takes many times a header's size for a moment, and threads would only share one core at it."""

INDEX = "model.safetensors.index.json"
AT_ONCE = 4
"""Files of one model looked into at the same time: the largest have 200, and each waits for the hub most of the time."""
GATHER_SECONDS = 30.0
FIRST_BYTES = 128 * 2**10
"""Asked for at first: more than most headers."""
MAX_HEADER_BYTES = 8 * 2**20
MAX_HEADERS_BYTES = 64 * 2**20
"""Of all files of one model, and what their tensors take in memory: the largest models have 200,000."""
TENSOR_BYTES = 128
"""What a tensor takes in memory, on top of what it takes in its header."""
MAX_INDEX_BYTES = 32 * 2**20


class _Index(msgspec.Struct):
    """The file of each tensor, by the tensor's name."""

    weight_map: dict[str, str]


class Budget:
    """Bytes that may still be taken, shared by threads."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        """Take so many. Raises ValueError where they are not left."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise ValueError("its headers are larger than those of any model")


def gather_tensors(
    repository: Repository,
    read: Callable[[str], Sequence[StoredTensor]],
    names: Sequence[str],
    *,
    known: Iterable[StoredTensor] = (),
) -> tuple[TensorGroup, ...]:
    """All tensors of these files, and those known already, in groups.

    None where those of one file cannot be read in time: the others alone would mislead.
    """
    readers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tensor-headers")
    try:
        found = readers.map(read, names, timeout=GATHER_SECONDS)
        return group_tensors(chain(known, chain.from_iterable(found)))
    except (SourceError, ValueError, *REFUSALS) as error:
        log.info("%s is planned for by its config alone: %r", repository, error)
        return ()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def read_safetensors(repository: Repository, files: Mapping[str, int]) -> tuple[TensorGroup, ...]:
    """The tensors of these files, whose sizes are given."""
    read = partial(_read_header, repository, files, Budget(MAX_HEADERS_BYTES))
    return gather_tensors(repository, read, list(files))


def indexed_files(repository: Repository, names: Sequence[str]) -> list[str]:
    """Those of the files that the index of a sharded model names: engines load no others.

    Raises:
        SourceError, ValueError, OSError: the index cannot be read, or names files that are not there.
    """
    text = _read_again(repository, INDEX, 0, MAX_INDEX_BYTES + 1)
    if len(text) > MAX_INDEX_BYTES:
        raise ValueError(f"its {INDEX} is larger than {MAX_INDEX_BYTES} bytes")
    used = set(msgspec.json.decode(text, type=_Index).weight_map.values())
    missing = sorted(used.difference(names))
    if missing:
        raise ValueError(f"{INDEX} names {missing[0]}, which is not there ({len(missing)} in all)")
    return [name for name in names if name in used]


def _read_header(
    repository: Repository, files: Mapping[str, int], budget: Budget, name: str
) -> Sequence[StoredTensor]:
    start = _read_again(repository, name, 0, FIRST_BYTES)
    length = header_length(start)
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(f"the header of {name} is larger than {MAX_HEADER_BYTES} bytes")
    budget.spend(length)
    missing = LENGTH_BYTES + length - len(start)
    if missing > 0:
        start += _read_again(repository, name, len(start), missing)
    with _one_parses:
        tensors = list(parse_header(start[LENGTH_BYTES : LENGTH_BYTES + length], files[name]))
    budget.spend(TENSOR_BYTES * len(tensors))
    return tensors


def _read_again(repository: Repository, name: str, start: int, size: int) -> bytes:
    """A piece of a file, asked for a second time where the first failed: with many files one of them may well."""
    try:
        return repository.read(name, start, size)
    except SourceError:
        return repository.read(name, start, size)
