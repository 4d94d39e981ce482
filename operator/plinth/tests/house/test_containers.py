"""The Containerfiles build from what is here, by hash; and the slim image has all that it imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from plinth.tests.house.documents import ROOT
from plinth.tests.house.test_packaging import RUNTIME, locked_in, sources_of

CONTAINERFILES = sorted((ROOT / "containers").glob("*.Containerfile"))
ONLY_IN_ENGINES = {"ray", "xllamacpp", "jinja2"}
BLOCKED_IMPORTS = """
import sys
sys.modules.update(dict.fromkeys(("ray", "xllamacpp", "jinja2", "vllm", "torch")))
import plinth.cli, plinth.gateway.server.process
"""


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_every_file_that_is_copied_into_an_image_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    locks = re.findall(r"LOCK=(\w+)", text)
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            for each in {source.replace("${LOCK}", lock) for lock in locks or [""]}:
                assert (ROOT / each).exists(), each


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_images_are_built_by_hash_and_run_as_a_user_without_rights(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
    for install in re.findall(r"pip install (.+?)(?: \\)?$", text, re.MULTILINE):
        assert "--require-hashes" in install or "/dist/" in install, install


def test_the_slim_image_is_everything_but_ray_and_the_engines() -> None:
    assert sources_of("operator") == RUNTIME - ONLY_IN_ENGINES
    assert not ONLY_IN_ENGINES & locked_in(ROOT / "requirements/operator.txt").keys()


@pytest.mark.parametrize("lock", ["operator", "engine"])
def test_images_hold_what_was_tested(lock: str) -> None:
    """The versions are those of runtime.txt, except where vLLM asks for others."""
    of_tests = locked_in(ROOT / "requirements/runtime.txt")
    of_vllm = {"fastapi"}
    for name, block in locked_in(ROOT / f"requirements/{lock}.txt").items():
        if name in of_tests and name not in of_vllm:
            assert block.split()[0] == of_tests[name].split()[0]


def test_operator_and_gateway_start_without_ray_and_the_engines() -> None:
    subprocess.run([sys.executable, "-c", BLOCKED_IMPORTS], check=True, timeout=60)
