"""The routing benchmark holds its peers to their rules, and reaches its goal where the trace is at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from routing_trace import SECONDS, TRACE
from routing_trace_backends import Asked, Backend, Scene, read_trace, replay
from routing_trace_peers import PEERS, Gateway, RoundRobin

SCENE = Scene(backends=2, rate=1000.0, cache_blocks=4, speed=1.0)


def make_asked(at: float = 0.0, tokens: int = 1024, blocks: tuple[int, ...] = (1, 2)) -> Asked:
    return Asked(at=at, tokens=tokens, output_tokens=10, blocks=list(blocks))


def test_a_backend_reads_one_prompt_after_the_other_and_skips_what_it_holds() -> None:
    backend = Backend(rate=1000.0, cache_blocks=4)
    assert backend.read(make_asked(), 0.0) == (1.024, 1024)
    assert backend.read(make_asked(tokens=1536, blocks=(1, 2, 3)), 1.0) == pytest.approx((1.536, 512))
    assert backend.read(make_asked(blocks=(8, 9)), 5.0) == pytest.approx((6.024, 1024))
    # Room for four: of 1, 2, 3 the prompt's end went first.
    assert backend.held([1, 2, 3]) == 2


def test_the_same_seed_gives_the_same_replay_and_another_seed_another() -> None:
    trace = [make_asked(at=number * 0.9, blocks=(number % 5, 10 + number)) for number in range(40)]
    one, again, other = (replay(trace, SCENE, seed, Gateway).ttfts for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_plays_a_trace_to_its_end(name: str) -> None:
    trace = [make_asked(at=number * 0.5, blocks=(number % 3, 10 + number % 7)) for number in range(60)]
    outcome = replay(trace, replace(SCENE, cache_blocks=12), 0, PEERS[name])
    assert len(outcome.ttfts) == len(trace)
    assert outcome.ttfts[0] > 0


@pytest.mark.skipif(not TRACE.exists(), reason=f"the trace is not at {TRACE}")
def test_nine_of_ten_users_have_their_first_token_within_two_seconds() -> None:
    trace = read_trace(TRACE)
    assert replay(trace, Scene(), 0, Gateway).percent_under(SECONDS) >= 90
    assert replay(trace, Scene(), 0, PEERS["4_workers"]).percent_under(SECONDS) >= 90
    assert replay(trace, Scene(), 0, RoundRobin).percent_under(SECONDS) < 45
