"""What is installed is declared, pinned by hash, explained; and what is imported is declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from plinth.tests.house.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SOURCES = [path for path in (ROOT / "operator/plinth").rglob("*.py") if "tests" not in path.parts]


def canonical(requirement: str) -> str:
    """The distribution's name in one spelling, without extras, version and marker."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^-_.\w]", requirement.strip())[0]).lower()


def sources_of(name: str) -> set[str]:
    """The distributions that a requirements/NAME.in asks for."""
    lines = (ROOT / f"requirements/{name}.in").read_text(encoding="utf-8").splitlines()
    return {canonical(line) for line in lines if line and line[0] not in "#-"}


def locked_in(lock: Path) -> dict[str, str]:
    """Each distribution of a lock with its block of lines."""
    blocks = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())
    return {canonical(block): block for block in blocks}


NAMED = sorted(
    path.stem for path in (ROOT / "requirements").glob("*.in") if path.stem not in {"operator", "vllm-cpu"}
)
"""Lists of direct dependencies. The operator's are some of pyproject.toml's; vLLM's on the CPU says itself why each is there."""
RUNTIME = {canonical(each) for each in PROJECT["project"]["dependencies"]}
EXTRAS = {canonical(each) for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra}


def imported_modules(path: Path) -> set[str]:
    """Top-level modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


def test_every_package_that_the_code_imports_is_a_declared_dependency() -> None:
    # vLLM, Ray and pydantic choose these: what of theirs is used must be the one that they run on.
    outside = {"plinth", "torch", "transformers", "grpc", "pydantic_core", *sys.stdlib_module_names}
    providers = packages_distributions()
    for path in SOURCES:
        for module in imported_modules(path) - outside:
            names = {canonical(each) for each in providers.get(module, [module])}
            assert names & (RUNTIME | EXTRAS), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_one_version_and_hashes_and_no_address(lock: Path) -> None:
    for name, block in locked_in(lock).items():
        assert re.match(r"\S+==\S+", block), f"{lock.name}: {name} has no version"
        assert "--hash=sha256:" in block, f"{lock.name}: {name} has no hash"
        assert "://" not in block, f"{lock.name}: {name} names an address"


@pytest.mark.parametrize(
    ("lock", "asked"),
    [("runtime", RUNTIME), *((name, sources_of(name)) for name in NAMED)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_dependency_asked_for_is_locked(lock: str, asked: set[str]) -> None:
    assert asked <= locked_in(ROOT / f"requirements/{lock}.txt").keys()


def test_packages_in_several_locks_have_one_version() -> None:
    versions: dict[str, set[str]] = {}
    for lock in ("bootstrap", "runtime", "dev", "models"):
        for name, block in locked_in(ROOT / f"requirements/{lock}.txt").items():
            versions.setdefault(name, set()).add(block.split()[0])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_builder_is_locked_at_the_version_that_the_build_asks_for() -> None:
    builder = PROJECT["build-system"]["requires"][0]
    assert locked_in(ROOT / "requirements/bootstrap.txt")["hatchling"].startswith(builder)


def test_every_direct_dependency_is_explained() -> None:
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    explained = {canonical(name) for name in re.findall(r"`([^`]+)`", text)}
    asked = RUNTIME | EXTRAS | {name for each in NAMED for name in sources_of(each)}
    assert asked - explained == set()


def test_operator_is_no_package_or_it_would_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator/__init__.py").exists()
