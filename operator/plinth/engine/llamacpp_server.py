"""The process that holds llama.cpp: `python -m plinth.engine.llamacpp_server`, started by `plinth.engine.llamacpp`.

A process of its own for two reasons. xllamacpp holds Python's lock while it loads, which can take minutes: in the
replica's process nothing could answer meanwhile, and Ray would take the replica for dead. And when llama.cpp
aborts (it does on a failed assertion), the replica is still there to say why.

Settings come as one JSON document on stdin. One JSON line goes to stdout: the address, or what was wrong.
"""

from __future__ import annotations

import ctypes
import difflib
import enum
import json
import os
import signal
import sys
from typing import Any

import xllamacpp

_PR_SET_PDEATHSIG = 1
_TELLS_OF_BUFFERS = 4
"""Verbosity from which llama.cpp logs how large its buffers are: a page as it loads, and lines for each request."""
_TRUTHS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


class SettingError(Exception):
    """An engine argument that llama.cpp does not have, or a value that it does not take."""


def apply_argument(params: Any, name: str, text: str) -> None:
    """Set the attribute that an argument names (`n-batch` is `n_batch`), typed like its present value.

    Raises:
        SettingError: no such argument, or the value is of another type.
    """
    attribute = name.replace("-", "_")
    known = [key for key in dir(params) if not key.startswith("_") and _settable(getattr(params, key, None))]
    if attribute not in known:
        near = difflib.get_close_matches(attribute, known, n=1, cutoff=0.5)
        hint = f"; the nearest is {near[0].replace('_', '-')}" if near else ""
        raise SettingError(f"llama.cpp has no argument {name}{hint}")
    setattr(params, attribute, _typed(name, text, getattr(params, attribute)))


def _settable(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _typed(name: str, text: str, present: object) -> object:
    try:
        if isinstance(present, bool):
            return _TRUTHS[text.strip().lower()]
        if isinstance(present, enum.Enum):
            return _member(type(present), text)
        if isinstance(present, int):
            return int(text)
        return float(text) if isinstance(present, float) else text
    except KeyError:
        raise SettingError(f"{name} must be true or false, not {text!r}") from None
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def _member(kind: type[enum.Enum], text: str) -> enum.Enum:
    """The member whose name ends as `text` does: `mean` is LLAMA_POOLING_TYPE_MEAN."""
    members = {member.name.removeprefix(f"{kind.__name__.upper()}_").lower(): member for member in kind}
    if text.lower() not in members:
        raise ValueError(f"must be one of {', '.join(sorted(members))}, not {text!r}")
    return members[text.lower()]


def make_params(settings: dict[str, Any]) -> Any:
    """The parameters of a server, from the settings that `plinth.engine.llamacpp` makes."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.api_keys = [settings["key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.model_alias = {settings["alias"]}  # else answers name the file
    if settings["threads"]:
        params.cpuparams.n_threads = settings["threads"]
        params.cpuparams_batch.n_threads = settings["threads"]
    for name, value in settings["fixed"].items():
        apply_argument(params, name, value)
    for name, value in settings["args"].items():
        apply_argument(params, name, value)
    return params


def start(params: Any) -> Any:
    """The server, loaded. What its buffers take is told in the log; then it is as quiet as it was asked to be."""
    asked = params.verbosity
    params.verbosity = max(asked, _TELLS_OF_BUFFERS)
    server = xllamacpp.Server(params)
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    ctypes.c_int.in_dll(library, "common_log_verbosity_thold").value = asked
    return server


def find_accelerators() -> list[str]:
    """The accelerators that llama.cpp sees, by their address on the PCI bus; none in a build for CPUs."""
    return [each["device_id"] for each in xllamacpp.get_device_info() if each["type"].name.endswith("_GPU")]


def _die_with(parent: int) -> None:
    """Have the kernel end this process with the replica, whatever ends that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the replica ended before its engine started")


def main() -> None:
    """Load, say where, and serve until killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the replica decides
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever C++ prints belongs in the log
    settings = json.load(sys.stdin)
    _die_with(settings["parent"])
    try:
        server = start(make_params(settings))
        answer = {"address": server.listening_address, "devices": find_accelerators()}
    except (SettingError, RuntimeError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=out, flush=True)
    if "error" in answer:
        sys.exit(1)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
