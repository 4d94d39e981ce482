"""What only real accelerators can show of where engines compute: `python placed_engines.py FOLDER`, on a machine with two.

Two nodes of a real Ray on this machine: one shows both accelerators in reverse order, the other only the first. Slots go
there as the operator asks for them, and what vLLM's workers say they compute on is compared with what the driver says.
The model has a real architecture and made-up weights. One JSON line a check; the exit status says whether all held.

Needs vLLM for the accelerators and Ray in this Python, and `operator`, `e2e/tests`, `e2e/benchmarks` in PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_slots import RaySlots, make_slot, two_nodes
from synthetic_model import Qwen2Shape, write_model

from plinth.cluster.processes import find_instance_processes
from plinth.domain.fleet import Engine, EngineSpec, SlotPlace, SlotPlan
from plinth.tests.engine.serving import make_spec

INSTANCE = "gpucheck"
START_SECONDS = 300
FREE_MIB = 2048
"""What an accelerator may hold when nothing of ours computes on it."""
SHAPE = Qwen2Shape(layers=24, hidden=896, intermediate=4864, heads=14, kv_heads=2, context_tokens=2048)
PROMPT = {
    "model": "chat",
    "prompt": [[11, 500, 23, 4000, 77, 1234]],
    "max_tokens": 32,
    "temperature": 0,
    "ignore_eos": True,
    "return_token_ids": True,
}


def make_engine_spec(model: Path) -> EngineSpec:
    return make_spec(
        engine=Engine.VLLM,
        source=f"file://{model}",
        context_tokens=2048,
        concurrency=8,
        threads=0,
        memory_utilization_percent=30,
        args={"enforce-eager": "true", "load-format": "dummy"},
    )


def ask_driver(what: str) -> list[str]:
    """One figure of each accelerator, in the driver's order."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


class Checks:
    """What was looked at, and whether it was as it should be."""

    def __init__(self) -> None:
        self.all_held = True

    def note(self, name: str, found: Any, expected: Any) -> None:
        held = found == expected
        self.all_held &= held
        print(json.dumps({"check": name, "held": held, "found": found, "expected": expected}), flush=True)


def seen_in(state: dict[str, Any]) -> list[tuple[str, int, str]]:
    print(json.dumps({"told": state["accelerators"]}), flush=True)
    return [(each["node_id"], each["index"], each["uuid"]) for each in state["accelerators"]]


async def answer_of(slots: RaySlots, slot: SlotPlan, checks: Checks, expected: list[Any]) -> Any:
    served, state = await slots.ready(slot, seconds=START_SECONDS)
    checks.note(f"{slot.name.revision} computes where it was put", seen_in(state), expected)
    status, answer = await served.post("/v1/completions", PROMPT)
    checks.note(f"{slot.name.revision} answers", status, 200)
    return answer.get("choices", [{}])[0].get("token_ids")


async def check(folder: Path) -> bool:
    checks, driver = Checks(), ask_driver("uuid")
    spec = make_engine_spec(write_model(folder / "model", SHAPE))
    nodes = two_nodes(
        sys.executable,
        *("0", "1,0", "0"),
        folder=folder,
        instance=INSTANCE,
        cache=folder / "cache",
        environment={"RAY_memory_monitor_refresh_ms": "0"},
        patience_seconds=5,
    )
    async with nodes as slots:
        reversed_node, other = slots.nodes
        # The node with both shows them in reverse order: its index 0 is the driver's 1.
        last = (reversed_node, 0, driver[1])
        first = (reversed_node, 1, driver[0])

        one = make_slot("second", spec, SlotPlace(reversed_node, (1,)))
        await slots.apply(one)
        alone = await answer_of(slots, one, checks, [first])
        beside = make_slot("beside", spec, SlotPlace(reversed_node, (0,)))
        await slots.apply(one, beside)
        checks.note("beside says the same", await answer_of(slots, beside, checks, [last]), alone)
        await slots.apply()

        pair = make_slot("tensor2", replace(spec, tensor_parallel=2), SlotPlace(reversed_node, (1, 0)))
        await slots.apply(pair)
        await answer_of(slots, pair, checks, [first, last])
        await slots.apply()

        split_spec = replace(spec, pipeline_parallel=2)
        split = make_slot("stages2", split_spec, SlotPlace(reversed_node, (0,)), SlotPlace(other, (0,)))
        await slots.apply(split)
        told = await answer_of(slots, split, checks, [last, (other, 0, driver[0])])
        checks.note("two stages on two nodes say the same", told, alone)
        await check_death(slots, split, checks)
    return checks.all_held


async def check_death(slots: RaySlots, split: SlotPlan, checks: Checks) -> None:
    """With NCCL between its stages, too, a replica must notice that one died, and free what both hold."""
    served, _ = await slots.ready(split, seconds=START_SECONDS)
    for pid in find_instance_processes(INSTANCE):
        if "plinth.engine.vllm_stage" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while (state := await served.state())["phase"] != "Failed":
            await asyncio.sleep(0.2)
    found = "the engine's part on node" in state["message"]
    checks.note("a lost stage fails the replica", found=found, expected=True)
    async with asyncio.timeout(60):
        while any(int(used) > FREE_MIB for used in await asyncio.to_thread(ask_driver, "memory.used")):
            await asyncio.sleep(0.5)
    checks.note("nothing is held after it", found=True, expected=True)


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    sys.exit(0 if asyncio.run(check(place)) else 1)
