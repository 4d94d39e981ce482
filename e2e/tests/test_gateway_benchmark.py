"""What the gateway's benchmarks are made of: they count rightly, compare like with like, and notice what goes wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from gateway_burst import CAPACITY, USUAL, Stage
from gateway_engines import engines
from gateway_figures import make_records
from gateway_measures import EVENTS, Cores, Seen
from gateway_peers import PEERS
from gateway_plinth import make_key
from gateway_plot import draw
from gateway_processes import free_port, pinned
from gateway_resume import ask, judge, make_body, measure
from gateway_soak import growth
from gateway_wire import Answered, Times, backend, load, make_requests
from records import Record

FAST = Times(p50=100, p90=150, p99=300, most=900)
DIRECT = Answered(seconds=2.0, answered=400_000, failed=0, events=0, whole=FAST, first=FAST)
ROOT = Path(__file__).resolve().parents[2]


def make_seen(*, requests: float, events: float, pace: float = 1.0) -> Seen:
    return Seen(
        per_cpu_second=[requests, requests * 1.1, requests * 0.9],
        per_second=[requests] * 3,
        events_per_cpu_second=[events] * 3,
        alone=[180, 200, 220],
        half_load=[900, 1100, 1000],
        first_event=[300] * 3,
        pace=[pace] * 3,
    )


def make_all(*, resumes: bool = True, late: float = 1.0) -> dict[str, Record]:
    seen = {
        "plinth": make_seen(requests=30_000, events=28_000),
        "plinth_spliced": Seen(events_per_cpu_second=[45_000] * 3, pace=[late] * 3, first_event=[300] * 3),
        "haproxy": make_seen(requests=60_000, events=60_000),
        "litellm": make_seen(requests=100, events=1_000),
    }
    notes = {"plinth_names_tokens": resumes}
    made = make_records(seen, (DIRECT, DIRECT), rss={"plinth": 40.0}, notes=notes, versions={})
    return {record.metric: record for record in made}


def test_ratios_are_of_the_same_round_and_latency_is_what_the_proxy_adds() -> None:
    records = make_all()
    assert records["gateway_requests_per_second_core"].value == 30_000
    assert records["gateway_requests_share_of_haproxy"].value == 0.5
    assert records["gateway_requests_times_litellm"].met
    assert records["gateway_sse_share_of_haproxy"].value == 0.75
    assert records["gateway_added_latency_p50_ms"].value == 0.1
    assert records["gateway_added_latency_half_load_p99_ms"].value == 0.9
    assert "gateway_requests_times_vllm_router" not in records, "it was not measured"


def test_streams_that_could_not_go_on_or_came_late_give_no_figure() -> None:
    assert make_all()["gateway_sse_chunks_resumable_per_second_core"].value == 28_000
    assert make_all(resumes=False)["gateway_sse_chunks_resumable_per_second_core"].value is None
    late = make_all(late=1.4)["gateway_sse_chunks_per_second_core"]
    assert late.value is None
    assert "1.40 of their time" in str(late.peers["why_none"])


def test_the_plot_has_a_bar_for_each_who_was_measured() -> None:
    records = {name: json.loads(record.to_line()) for name, record in make_all().items()}
    drawn = ET.fromstring(draw(records))  # noqa: S314 - our own picture
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("haproxy") == words.count("litellm") == 2
    assert {"30,000", "45,000", "28,000", "goal 25,000", "goal 40,000"} <= set(words)


def test_memory_that_rises_after_the_first_quarter_is_growth() -> None:
    assert growth([*range(30, 130), *[130] * 300]) == 0
    assert growth([30 + number / 10 for number in range(400)]) == pytest.approx(20)


def test_every_peer_is_locked_by_hashes() -> None:
    for peer in PEERS:
        lock = (ROOT / f"requirements/peers-{peer.name}.txt").read_text()
        assert f"\n{peer.distribution}" in f"\n{lock}"
        assert "--hash=sha256:" in lock


def test_a_burst_is_the_same_each_time_and_as_heavy_as_it_says() -> None:
    key = make_key("one", "bench/bulk")
    stage = Stage(0, {"bulk": key}, USUAL)
    made = stage.traffic("bulk", "bulk", rate=CAPACITY, seconds=60, start=6)
    assert made == stage.traffic("bulk", "bulk", rate=CAPACITY, seconds=60, start=6)
    assert len(made) == pytest.approx(CAPACITY * 60, rel=0.1)
    assert 6 <= made[0].at < made[-1].at < 66


@pytest.mark.process
@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="the wire's ends are in C")
async def test_the_wire_s_ends_agree_on_what_went_over_it() -> None:
    cores = Cores.of_this_machine()
    async with backend(core=cores.replicas, replicas=2, event_milliseconds=2, events=EVENTS) as ports:
        whole = make_requests(["sk-1", "sk-2"], model="m", count=10, stream=False)
        fast = await load(ports[0], whole, core=cores.client, connections=4, seconds=0.3)
        assert fast.answered > 100
        assert fast.failed == fast.events == 0
        paced = await load(ports[1], whole, core=cores.client, connections=4, seconds=0.5, rate=200)
        assert paced.answered == pytest.approx(100, abs=5)
        streams = make_requests(["sk-1"], model="m", count=10, stream=True)
        seen = await load(ports[0], streams, core=cores.client, connections=5, seconds=0.1)
        assert seen.events == seen.answered * (EVENTS + 1), "each ends with [DONE]"
        assert seen.whole.p50 >= 2_000 * (EVENTS - 2)


@pytest.mark.process
async def test_the_cpu_time_of_a_proxy_is_that_of_its_children_too(tmp_path: Path) -> None:
    spin = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    core = Cores.of_this_machine().proxy
    async with pinned(
        "sh", "-c", f"({spin}; sleep 60) & wait", core=core, port=free_port(), folder=tmp_path
    ) as proxy:
        for _ in range(200):
            if proxy.cpu_seconds() > 0.02:
                break
            await asyncio.sleep(0.05)
        assert proxy.cpu_seconds() > 0.02
        assert proxy.rss_mib() > 0.5
    assert proxy.process.returncode is not None


@pytest.mark.process
async def test_streams_are_judged_by_what_an_undisturbed_replica_says() -> None:
    async with engines(1, "tokens", "0.0", "12") as replicas:
        stream = await ask(replicas[0][1], make_body(1, 30))
        other = await ask(replicas[0][1], make_body(2, 30))
    events = stream.split(b"\n\n")
    assert judge(stream, stream, repeats=True) == "whole"
    assert judge(b"\n\n".join(events[:-3]), stream, repeats=True) == "broken"
    assert judge(b"\n\n".join(events[:4] + events[5:]), stream, repeats=True) == "lost"
    assert judge(b"\n\n".join(events[:4] + events[3:]), stream, repeats=True) == "doubled"
    assert judge(other, stream, repeats=True) != "whole"
    assert judge(other, stream, repeats=False).startswith("whole, of an engine")
    assert judge(b"", stream, repeats=True) == "hung"


@pytest.mark.process
async def test_no_stream_is_lost_when_one_replica_is_killed_and_another_hangs(tmp_path: Path) -> None:
    broken, lost, differing = await measure("tokens", 12, tmp_path)
    assert (broken.value, lost.value, differing.value) == (0, 0, 0), broken.peers
    assert isinstance(broken.peers["went_on_elsewhere"], int)
    assert broken.peers["went_on_elsewhere"] >= 6, "the failures met too few streams"
