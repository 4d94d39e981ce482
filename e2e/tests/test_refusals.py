"""What cannot work is one clear line, and leaves no process behind."""

from __future__ import annotations

import socket
import time

import pytest
from fleet import Fleet, make_model

pytestmark = pytest.mark.ray


def ask(fleet: Fleet, *, timeout: float = 120) -> tuple[int, str]:
    done = fleet.run(
        "up",
        str(fleet.folder),
        "--listen",
        f"127.0.0.1:{fleet.port}",
        "--ask",
        "Anyone there?",
        timeout=timeout,
    )
    return done.returncode, done.stderr


def test_a_port_in_use(fleet: Fleet) -> None:
    fleet.write(make_model())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fleet.port))
        taken.listen()
        code, said = ask(fleet)
    assert code == 1
    assert f"127.0.0.1:{fleet.port} cannot be listened on" in said
    assert "--listen" in said
    assert fleet.processes() == []


def test_a_missing_model(fleet: Fleet) -> None:
    fleet.write(make_model(model={"source": "file:///nowhere/model.gguf"}))
    code, said = ask(fleet)
    assert code == 1
    assert "file:///nowhere/model.gguf" in said
    assert fleet.processes() == []


def test_a_source_that_plinth_cannot_read(fleet: Fleet) -> None:
    fleet.write(make_model(model={"source": "s3://bucket/model"}))
    code, said = ask(fleet)
    assert code == 1
    assert "models.yaml:" in said
    assert "spec.model.source" in said
    assert "hf://" in said


def test_a_second_up_on_the_folder_and_ctrl_c_while_ray_starts(fleet: Fleet) -> None:
    fleet.write(make_model())
    fleet.up()
    deadline = time.monotonic() + 20
    while not fleet.state.instance_file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    code, said = ask(fleet)
    assert code == 1
    assert "already runs on" in said
    time.sleep(2)
    assert fleet.stop() == 0
    assert fleet.processes() == []


def test_more_memory_than_there_is(fleet: Fleet) -> None:
    fleet.write(make_model(objectives={"contextTokens": 8192, "concurrency": 4096}))
    code, said = ask(fleet)
    assert code == 1
    assert "one replica needs" in said
    assert fleet.processes() == []
