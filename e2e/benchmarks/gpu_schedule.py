"""When which stack is measured how: the phases of the comparison, sized for twenty-odd minutes on two GPUs.

Every step carries the seconds that it is expected to take, so that the run can tell what still fits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from serving_stacks import BareVllm, PlinthUp
from synthetic_model import QWEN2_5_32B, TINY, Qwen2Shape

BARE, PLINTH = BareVllm.name, PlinthUp.name


@dataclass(frozen=True, kw_only=True)
class Level:
    """So many users, who ask for so many answers together."""

    users: int
    requests: int
    processes: int
    seconds: float
    """What one measurement is expected to take."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Both stacks loaded at once, on given GPUs, measured in turns."""

    name: str
    tensor: int
    devices: dict[str, str]
    """`CUDA_VISIBLE_DEVICES` of each stack, by its name."""
    utilization_percent: int
    levels: tuple[Level, ...]
    repeats: int
    start_seconds: float
    """What both starts are expected to take."""
    needed_later_seconds: float = 0.0
    """Time to leave for the next phase: a second repeat here is worth less than its first."""

    @property
    def repeat_seconds(self) -> float:
        """What one repeat is expected to take."""
        return 2 * sum(level.seconds for level in self.levels)

    @property
    def shared(self) -> bool:
        """Whether both stacks are on the same GPUs, so that one must start after the other."""
        return len(set(self.devices.values())) == 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A whole run."""

    shape: Qwen2Shape
    phases: tuple[Phase, ...]
    context_tokens: int
    concurrency: int
    output_tokens: int = 256
    input_tokens: int = 512
    args: dict[str, str] = field(default_factory=lambda: {"load-format": "dummy"})
    environment: dict[str, str] = field(default_factory=dict)


def gpu_profile() -> Profile:
    """Qwen2.5-32B's shape on two GPUs of 140 GiB."""
    tp2 = (
        Level(users=1, requests=6, processes=1, seconds=19),
        Level(users=40, requests=120, processes=2, seconds=15),
        Level(users=256, requests=512, processes=4, seconds=26),
    )
    tp1 = (
        Level(users=1, requests=4, processes=1, seconds=18),
        Level(users=40, requests=80, processes=2, seconds=17),
        Level(users=256, requests=384, processes=4, seconds=32),
    )
    # 46% each at TP2: 29.7 GiB weights, 33 GiB KV for 256 · 1024 tokens, and 11 GiB spare for the two together.
    both = Phase(
        name="TP2",
        tensor=2,
        devices={BARE: "0,1", PLINTH: "0,1"},
        utilization_percent=46,
        levels=tp2,
        repeats=3,
        start_seconds=200,
    )
    apart = Phase(
        name="TP1",
        tensor=1,
        devices={BARE: "0", PLINTH: "1"},
        utilization_percent=92,
        levels=tp1,
        repeats=2,
        start_seconds=150,
        needed_later_seconds=300,
    )
    swapped = replace(
        apart, name="TP1 swapped", devices={BARE: "1", PLINTH: "0"}, start_seconds=110, needed_later_seconds=0
    )
    return Profile(shape=QWEN2_5_32B, phases=(both, apart, swapped), context_tokens=1024, concurrency=256)


def rehearsal_profile() -> Profile:
    """Everything but the figures, on a CPU with a toy model: same steps, same files."""
    levels = (
        Level(users=1, requests=2, processes=1, seconds=5),
        Level(users=4, requests=8, processes=2, seconds=10),
    )
    phase = Phase(
        name="TP1",
        tensor=1,
        devices={BARE: "", PLINTH: ""},
        utilization_percent=50,
        levels=levels,
        repeats=2,
        start_seconds=200,
    )
    return Profile(
        shape=TINY,
        phases=(phase,),
        context_tokens=256,
        concurrency=4,
        input_tokens=32,
        output_tokens=16,
        args={"load-format": "dummy", "enforce-eager": "true", "kv-cache-memory-bytes": str(256 << 20)},
        environment={
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "TORCH_COMPILE_DISABLE": "1",
        },
    )
