"""The table of visible-device variables, and which accelerators a replica is shown and sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import xllamacpp
from ray._private.thirdparty import pynvml

from plinth.desired.ray_environment import SERVING_ENVIRONMENT
from plinth.domain.fleet import SeenDevice
from plinth.engine import llamacpp_server
from plinth.engine.accelerators import MAKERS, NodeAccelerators, ToldDevice, given_by_name, maker_here
from plinth.engine.nvml import DriverDevice, find_fault, read_devices
from plinth.engine.ray_node import own_list
from plinth.engine.seam import EngineError
from plinth.engine.vllm_devices import find_seen, tell_device

NVIDIA, AMD, ASCEND = MAKERS


def made(*given: int, own: tuple[str, ...] | None = None, **more: Any) -> NodeAccelerators:
    return NodeAccelerators(node_id="n1", own=own, given=given, **more)


def devices(count: int) -> tuple[DriverDevice, ...]:
    """What a driver tells of so many."""
    return tuple(
        DriverDevice(
            place=place,
            uuid=f"GPU-{place}{place}{place}",
            address=f"00000000:{place:02X}:00.0",
        )
        for place in range(count)
    )


@pytest.mark.parametrize(
    ("file", "maker", "variable"),
    [
        ("nvidiactl", NVIDIA, "CUDA_VISIBLE_DEVICES"),
        ("kfd", AMD, "HIP_VISIBLE_DEVICES"),
        ("davinci_manager", ASCEND, "ASCEND_RT_VISIBLE_DEVICES"),
        ("null", NVIDIA, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_the_variable_is_that_of_the_driver_that_is_there(
    tmp_path: Path, file: str, maker: object, variable: str
) -> None:
    (tmp_path / file).touch()
    assert maker_here(tmp_path) is maker
    assert maker_here(tmp_path).variable == variable


@pytest.mark.parametrize("maker", MAKERS)
def test_ray_is_told_to_leave_each_makers_variable_alone(maker: Any) -> None:
    assert SERVING_ENVIRONMENT[f"RAY_EXPERIMENTAL_NOSET_{maker.variable}"] == "1"


@pytest.mark.parametrize(
    ("own", "given", "shown"),
    [
        (None, (2, 3), "2,3"),
        (None, (5, 4, 0, 1), "5,4,0,1"),
        (("4", "5", "6", "7"), (2, 3), "6,7"),
        (("GPU-5d2c", "MIG-77aa"), (1,), "MIG-77aa"),
    ],
    ids=["by number", "in the order of the ranks", "among the node's own", "by name"],
)
def test_an_engine_is_shown_exactly_what_was_planned(
    own: tuple[str, ...] | None, given: tuple[int, ...], shown: str
) -> None:
    environment: dict[str, str] = {}
    made(*given, own=own).show(NVIDIA, environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": shown, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_an_order_that_the_node_names_itself_stays() -> None:
    environment = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    made(0).show(NVIDIA, environment)
    assert environment["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_on_amd_the_one_variable_that_vllm_does_not_deprecate_is_left() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "HIP_VISIBLE_DEVICES": "0,1,2,3"}
    made(1, 2, own=("0", "1", "2", "3")).show(AMD, environment)
    assert environment == {"HIP_VISIBLE_DEVICES": "1,2"}


def test_without_accelerators_nothing_is_said() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "1"}
    made().show(NVIDIA, environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1"}


def test_a_node_that_shows_fewer_than_planned_is_refused_in_words() -> None:
    with pytest.raises(EngineError, match=r"shows 2 accelerators \(4,5\).*index 2"):
        made(1, 2, own=("4", "5")).show(NVIDIA, {})


@pytest.mark.parametrize(
    ("originals", "own"),
    [
        ({"GPU": None, "NPU": None}, None),
        ({"TPU": None, "GPU": ["4", "5"]}, ("4", "5")),
        ({"GPU": [], "NPU": ["0"]}, ("0",)),
    ],
)
def test_a_nodes_own_list_is_what_ray_found_before_it_chose(
    originals: dict[str, list[str] | None], own: tuple[str, ...] | None
) -> None:
    assert own_list(originals) == own


def test_rays_choice_is_read_as_indices() -> None:
    assert given_by_name(None, ["3", "1"]) == (1, 3)
    assert given_by_name(("4", "5", "6"), ["6", "4"]) == (0, 2)


@pytest.mark.parametrize(
    "told",
    [
        ToldDevice(0, uuid="333"),
        ToldDevice(0, uuid="GPU-333"),
        ToldDevice(0, address="0000:03:00.0"),
    ],
)
def test_what_the_driver_knows_comes_before_what_was_shown(told: ToldDevice) -> None:
    seen = made(0, driver=devices(4)).seen(told)
    assert seen == SeenDevice(node_id="n1", index=3, uuid="GPU-333")


def test_an_index_counts_what_the_node_shows() -> None:
    for own in (("1", "3"), ("GPU-1", "GPU-333")):
        seen = made(1, own=own, driver=devices(4)).seen(ToldDevice(0, uuid="333"))
        assert seen == SeenDevice(node_id="n1", index=1, uuid="GPU-333")
    assert made(0, own=("1",), driver=devices(4)).seen(ToldDevice(0, uuid="333")) is None


def test_without_a_driver_to_ask_the_order_it_was_shown_in_tells() -> None:
    node = made(5, 4)
    assert node.seen(ToldDevice(1, uuid="abc")) == SeenDevice(node_id="n1", index=4, uuid="abc")
    assert node.seen(ToldDevice(2)) is None


def test_the_devices_of_several_nodes_come_rank_by_rank() -> None:
    nodes = (made(0, 1), NodeAccelerators(node_id="n2", given=(6, 7)))
    told = [{"ordinal": rank % 2, "uuid": ""} for rank in range(4)]
    assert [(seen.node_id, seen.index) for seen in find_seen(told, nodes)] == [
        *(("n1", 0), ("n1", 1)),
        *(("n2", 6), ("n2", 7)),
    ]
    assert find_seen([None, None], nodes) == ()


def test_a_worker_on_a_cpu_has_no_device_to_tell() -> None:
    assert tell_device(SimpleNamespace(device=SimpleNamespace(type="cpu", index=None))) is None


def test_llama_cpp_tells_its_accelerators_by_where_they_sit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert llamacpp_server.find_accelerators() == [], "this build computes on CPUs"
    cpu = next(each for each in xllamacpp.get_device_info())
    gpu = {"device_id": "0000:03:00.0", "type": SimpleNamespace(name="GGML_BACKEND_DEVICE_TYPE_GPU")}
    monkeypatch.setattr(xllamacpp, "get_device_info", lambda: [gpu, cpu])
    assert llamacpp_server.find_accelerators() == ["0000:03:00.0"]


class NvmlError(Exception):
    pass


def make_nvml(fails: str = "") -> Any:
    """A driver of four devices, which may fail at one question."""
    opened: list[int] = []

    def answer(question: str, value: Any) -> Any:
        if question == fails:
            raise NvmlError
        return value

    return SimpleNamespace(
        NVMLError=NvmlError,
        opened=opened,
        nvmlInit=lambda: opened.append(answer("init", 1)),
        nvmlShutdown=opened.pop,
        nvmlDeviceGetCount=lambda: 4,
        nvmlDeviceGetHandleByIndex=lambda place: answer("handle", place),
        nvmlDeviceGetHandleByUUID=lambda uuid: answer(uuid, uuid),
        nvmlDeviceGetRemappedRows=lambda uuid: (0, 2, uuid == "GPU-111", uuid == "GPU-222"),
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}{handle}{handle}",
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId=f"00000000:{handle:02X}:00.0".encode()),
    )


def test_the_driver_tells_names_and_addresses() -> None:
    nvml = make_nvml()
    assert read_devices(nvml) == devices(4)
    assert nvml.opened == []


@pytest.mark.parametrize("fails", ["init", "handle"])
def test_no_driver_or_a_broken_one_tells_nothing(fails: str) -> None:
    nvml = make_nvml(fails)
    assert read_devices(nvml) == ()
    assert nvml.opened == []


def test_memory_that_can_no_longer_be_remapped_is_a_fault_and_what_only_waits_for_a_reset_is_none() -> None:
    nvml = make_nvml(fails="GPU-elsewhere")
    fault = "GPU-222 has failing memory that can no longer be remapped"
    assert find_fault(["GPU-elsewhere", "GPU-222", "GPU-333"], nvml) == fault
    assert find_fault(["GPU-elsewhere", "GPU-111"], nvml) == ""
    assert find_fault(["GPU-222"], make_nvml(fails="init")) == ""
    assert nvml.opened == []


def test_the_binding_asks_as_this_code_does() -> None:
    """Without a driver no more can be shown; with one, both end in what the driver answers."""
    for question in (pynvml.nvmlDeviceGetHandleByUUID, pynvml.nvmlDeviceGetRemappedRows):
        with pytest.raises(pynvml.NVMLError):
            question("GPU-0")
