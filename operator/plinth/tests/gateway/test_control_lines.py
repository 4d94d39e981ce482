"""The lines between the fleet cycle and the gateway."""

from __future__ import annotations

import pytest

from plinth.domain.control_lines import (
    ControlLineError,
    Shutdown,
    decode_line,
    encode_report,
    encode_shutdown,
    encode_table,
)
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState
from plinth.tests.gateway.harness import make_model, make_replica, make_table


def test_every_message_survives_the_wire() -> None:
    table = make_table(make_model(make_replica(1), make_replica(2, state=ReplicaState.DRAINING)), version=3)
    report = LoadReport(
        gateway="g",
        table_version=3,
        models={"a/b": ModelLoad(in_flight=1, queued=2, peak=3, output_tokens_total=4)},
        replicas={"s": ReplicaLoad(in_flight=1, state=ReplicaState.DEAD, detail="refused")},
    )
    for line, message in (
        (encode_table(table), table),
        (encode_report(report), report),
        (encode_shutdown(2.5), Shutdown(deadline_seconds=2.5)),
    ):
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert decode_line(line) == message


def test_a_field_of_a_newer_version_is_ignored() -> None:
    assert decode_line(b'{"type":"shutdown","deadline_seconds":1,"later":true}') == Shutdown(
        deadline_seconds=1
    )


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"no", b'{"type":"poem"}', b'{"type":"table","version":"x"}', b"[1]"]
)
def test_what_is_no_message_is_an_error(line: bytes) -> None:
    with pytest.raises(ControlLineError):
        decode_line(line)
