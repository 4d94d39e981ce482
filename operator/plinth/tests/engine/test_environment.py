"""Engines in a pod: no home, no entry in /etc/passwd, nothing to write but the cache and /tmp."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from plinth.engine.environment import give_home
from plinth.tests.engine.serving import SECRET, Served
from plinth.tests.engine.test_vllm import SPEC, START_SECONDS, VENV

pytestmark = pytest.mark.process

POD_USER = 10_001


def given(cache_dir: Path, **environment: str) -> dict[str, str]:
    give_home(cache_dir, environment)
    return environment


def test_a_home_that_can_be_written_stays(tmp_path: Path) -> None:
    home, cache = str(tmp_path / "home"), str(tmp_path / "not there yet" / "cache")
    assert given(tmp_path, HOME=home, XDG_CACHE_HOME=cache, USER="ada") == {
        "HOME": home,
        "XDG_CACHE_HOME": cache,
        "USER": "ada",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", [None, "", "file/home"])
def test_without_one_there_is_one_in_the_cache(tmp_path: Path, home: str | None) -> None:
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file")
    environment = {"XDG_CACHE_HOME": f"{nowhere}/cache", "XDG_CONFIG_HOME": nowhere}
    if home is not None:
        environment["HOME"] = home and str(tmp_path / home)
    assert given(tmp_path, **environment) == {"HOME": f"{tmp_path}/home", "USER": f"plinth-{os.getuid()}"}
    assert (tmp_path / "home").is_dir()


def as_in_a_pod(command: list[str]) -> list[str]:
    """Another user, who may read all files and write none; where that takes root and there is none, the same user."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return command
    # Tests may lie where only root looks (its home, say): reading is let through, writing is not.
    reading = [
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    ]
    who = [f"--reuid={POD_USER}", f"--regid={POD_USER}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *who, *reading, *command]


@contextmanager
def pod(tmp_path: Path, python: Path, changes: dict[str, object]) -> Iterator[subprocess.Popen[str]]:
    """A replica in a process of its own, in a folder that nobody may write."""
    root, work = tmp_path / "root", tmp_path / "work"
    root.mkdir()
    work.mkdir()
    root.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    work.chmod(0o777)
    kept = ("PATH", "LD_LIBRARY_PATH", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": "/nonexistent",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [str(python), "-m", "plinth.tests.engine.run_replica", str(work), json.dumps(changes)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            as_in_a_pod(command),
            env=environment,
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()


async def serve_one_request(process: subprocess.Popen[str], log: Path, *, seconds: float) -> None:
    """Wait until the replica is ready and have it answer."""
    assert process.stdout is not None
    base = (await asyncio.to_thread(process.stdout.readline)).strip()
    assert base, log.read_text()
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as session:
        served = Served(base, session)
        await served.until("Ready", seconds=seconds)
        status, answer = await served.post(
            "/v1/completions", {"model": "chat", "prompt": "Hi", "max_tokens": 2}
        )
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 2


async def check(tmp_path: Path, python: Path, changes: dict[str, object], *, seconds: float) -> None:
    with pod(tmp_path, python, changes) as process:
        await serve_one_request(process, tmp_path / "log", seconds=seconds)
        owners = {path.stat().st_uid for path in (tmp_path / "work").rglob("*")}
    assert owners == ({POD_USER} if os.geteuid() == 0 else {os.geteuid()})
    assert list((tmp_path / "root").iterdir()) == []
    assert not Path("/nonexistent").exists()


async def test_llama_cpp_serves_as_another_user_without_home_in_a_read_only_folder(tmp_path: Path) -> None:
    await check(tmp_path, Path(sys.executable), {}, seconds=60)


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_so_does_vllm_and_it_converts_the_model_before(tmp_path: Path) -> None:
    await check(tmp_path, VENV / "bin" / "python", SPEC, seconds=START_SECONDS)
