"""Fuzzes one property in this process: `python one.py NAME FOLDER FLAG…`, with flags of libFuzzer.

What is found lies in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped] # in an environment of its own

with atheris.instrument_imports(include=["plinth"]):
    from plinth.tests.gateway.shell.properties import PROPERTIES

from plinth.tests.gateway.shell.seeds import SEEDS, tokens_of

LONGEST_BYTES = 4096
MOST_MEBIBYTES = 1024
MOST_SECONDS_FOR_ONE = 10


def fuzz(name: str, folder: Path, limits: list[str]) -> None:
    """Never returns: libFuzzer ends the process, with 0 if the property held."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in tokens_of(name)), encoding="ascii")
    flags = {
        "max_len": LONGEST_BYTES,
        "rss_limit_mb": MOST_MEBIBYTES,
        "timeout": MOST_SECONDS_FOR_ONE,
        "verbosity": 0,
        "print_final_stats": 1,
        "dict": words,
        "artifact_prefix": f"{folder}/find-",
    }
    told = [f"-{flag}={value}" for flag, value in flags.items()]
    atheris.Setup([sys.argv[0], *told, *limits, str(corpus)], PROPERTIES[name])
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    """As libFuzzer reads its dictionary."""
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    fuzz(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
