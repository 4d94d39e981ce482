"""Compiles the gateway's data path with mypyc: the same modules as machine code.

What pyproject.toml names under this hook becomes extension modules beside their sources; Python takes those first.
Nothing else changes, and without them everything runs from the sources.

    HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 uv build --wheel    the wheel that the images install
    python operator/compile_gateway.py build/compiled    a copy of the package, for tests and benchmarks
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OPERATOR = Path(__file__).resolve().parent
PROJECT = OPERATOR.parent / "pyproject.toml"
_SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
temporary, *modules = sys.argv[1:]
setup(
    name="plinth",
    packages=[],
    ext_modules=mypycify(
        ["--config-file=", "--ignore-missing-imports", *modules],
        group_name="plinth", multi_file=True, target_dir=temporary,
    ),
    script_args=["--quiet", "build_ext", "--inplace", "--build-temp", temporary, "--build-lib", temporary,
                 "--parallel", "%d"],
)
"""


class CompiledGateway(BuildHookInterface[Any]):
    """Puts the extension modules into the wheel, which is for one platform then."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's form
        """Called before the wheel is put together."""
        self._folder = Path(tempfile.mkdtemp(prefix="plinth-compiled-"))
        made = compile_into(self._folder)
        build_data["force_include"].update({str(path): str(path.relative_to(self._folder)) for path in made})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - as above
        """Called when the wheel is there."""
        shutil.rmtree(self._folder)


def compile_into(folder: Path) -> list[Path]:
    """Copies the package there and compiles its data path; returns the extension modules."""
    shutil.copytree(
        OPERATOR / "plinth", folder / "plinth", ignore=shutil.ignore_patterns("tests", "__pycache__", "*.so")
    )
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(  # noqa: S603 - our own script
            (sys.executable, "-c", _SETUP % (os.cpu_count() or 1), temporary, *_modules(folder)),
            cwd=folder,
            check=True,
        )
    return sorted(folder.rglob("*.so"))


def _modules(folder: Path) -> list[str]:
    hook = tomllib.loads(PROJECT.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    found = {path for pattern in hook["compiled"] for path in folder.glob(pattern)}
    left = {path for pattern in hook["interpreted"] for path in folder.glob(pattern)}
    return sorted(str(path.relative_to(folder)) for path in found - left if path.name != "__init__.py")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    compile_into(target)
    shutil.copytree(OPERATOR / "plinth" / "tests", target / "plinth" / "tests")
