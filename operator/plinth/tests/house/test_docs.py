"""The documents say what is there: reasons, links, commands."""

import re
from pathlib import Path

import click
import pytest

from plinth.api.v1alpha1 import Reason
from plinth.cli import kubectl, main
from plinth.tests.house.documents import ROOT, anchors_in, code_in, documents, tracked_files, without_code

DOCUMENTS = documents()
TROUBLESHOOTING = DOCUMENTS["docs/troubleshooting.md"]
EXPLAINED = set(re.findall(r"^\| `([A-Z][A-Za-z]+)` \|", TROUBLESHOOTING, re.MULTILINE))
# Assembled, so that this file does not name them itself.
REGISTRY_HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
MACHINE_FOLDERS = [f"{folder}/" for folder in (ROOT, Path.home()) if folder != Path("/")]


@pytest.mark.parametrize("reason", [reason.value for reason in Reason])
def test_every_reason_is_explained_in_troubleshooting(reason: str) -> None:
    assert reason in EXPLAINED


def test_troubleshooting_explains_no_reason_that_does_not_exist() -> None:
    assert {reason.value for reason in Reason} >= EXPLAINED


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_links_within_the_documents_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(DOCUMENTS[name])):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors_in(file.read_text(encoding="utf-8")), f"{name} links to {target}"


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_make_target_that_a_document_names_exists(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for code in code_in(DOCUMENTS[name]):
        command = re.match(r"make ([^#]+)", code)
        for word in command[1].split() if command else []:
            if "=" in word:
                break
            script = ROOT / "e2e/benchmarks" / f"{word.removeprefix('bench-').replace('-', '_')}.py"
            is_benchmark = word.startswith("bench-") and (word == "bench-NAME" or script.exists())
            assert word in targets or is_benchmark, f"{name} says `make {word}`"


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_plinth_command_and_option_that_a_document_names_exists(name: str) -> None:
    for code in code_in(DOCUMENTS[name]):
        words = code.removeprefix(".venv/bin/").split("#")[0].split()
        commands = main.commands
        if words[:2] == ["kubectl", "plinth"]:
            words, commands = words[1:], kubectl.commands
        if len(words) < 2 or words[0] != "plinth" or not re.fullmatch(r"[a-z]+", words[1]):
            continue
        command = commands.get(words[1])
        if isinstance(command, click.Group) and len(words) > 2:
            command = command.commands.get(words[2])
        assert command is not None, f"{name} says `{code}`"
        known = {option for each in command.params if isinstance(each, click.Option) for option in each.opts}
        assert {word for word in words[2:] if word.startswith("-")} <= known | {"--help"}, f"{name}: `{code}`"


def test_no_file_names_this_machine_or_a_package_registry() -> None:
    named = {
        (str(path.relative_to(ROOT)), word)
        for path in tracked_files()
        for word in (*REGISTRY_HOSTS, *MACHINE_FOLDERS)
        if word.encode() in path.read_bytes()
    }
    assert named == set()
