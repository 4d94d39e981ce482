"""What a gateway believes of its replicas' caches, and how its workers come to believe the same."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.routing.beliefs import CacheBeliefs
from plinth.gateway.routing.beliefs_shared import AGAIN_SECONDS, RING_BYTES, RING_WORDS, CacheNews
from plinth.gateway.routing.blocks import (
    BLOCK_BYTES,
    MOST_BLOCKS,
    blocks_of_bytes,
)

PROMPTS = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(
    # Names as a chain makes them: equal only where everything before is equal.
    lambda path: [hash(tuple(path[: end + 1])) & 0xFFFFFFFF for end in range(len(path))]
)


def make_rings(workers: int) -> list[memoryview]:
    return [memoryview(bytearray(RING_BYTES)) for _ in range(workers)]


@given(st.binary(max_size=5000), st.binary(max_size=3000), st.binary(max_size=3000))
def test_prompts_share_the_names_of_the_blocks_that_they_have_in_common(
    common: bytes, one: bytes, other: bytes
) -> None:
    first, second = blocks_of_bytes(common + one), blocks_of_bytes(common + other)
    shared = len(common) // BLOCK_BYTES
    assert first[:shared] == second[:shared]
    assert len(first) == (len(common) + len(one)) // BLOCK_BYTES


def test_a_conversation_that_grows_keeps_the_names_of_its_start() -> None:
    turns = [{"role": "user", "content": f"{number} " * 1000} for number in range(6)]
    before = blocks_of_bytes(json.dumps(turns[:3]).encode())
    after = blocks_of_bytes(json.dumps(turns).encode())
    # The bracket that closed the list is all that changed.
    assert len(before) > 2
    assert after[: len(before) - 1] == before[:-1]
    assert len(after) > len(before)


def test_a_difference_at_the_start_changes_every_name_after_it() -> None:
    body = bytes(4 * BLOCK_BYTES)
    names = blocks_of_bytes(body)
    assert not set(names) & set(blocks_of_bytes(b"x" + body[1:]))


def test_tools_and_adapters_are_part_of_every_name() -> None:
    body = bytes(2 * BLOCK_BYTES)
    seen = [
        blocks_of_bytes(body),
        blocks_of_bytes(body, before=b"[1]"),
        blocks_of_bytes(body, adapter="a"),
        blocks_of_bytes(body, adapter="b"),
    ]
    assert len({name for names in seen for name in names}) == sum(len(names) for names in seen)


def test_names_are_the_same_in_every_process_and_release() -> None:
    assert blocks_of_bytes(b"plinth" * 200) == [966_956_364]


def test_the_names_of_an_enormous_prompt_are_bounded() -> None:
    assert len(blocks_of_bytes(bytes(2 * MOST_BLOCKS * BLOCK_BYTES))) == MOST_BLOCKS
    assert blocks_of_bytes(b"short") == []


def test_one_walk_tells_how_far_each_cache_reaches() -> None:
    beliefs = CacheBeliefs()
    one, two, three = (beliefs.join(capacity=10) for _ in range(3))
    beliefs.remember(one, [1, 2, 3, 4])
    beliefs.remember(two, [1, 2, 9])
    assert beliefs.reach([1, 2, 3, 4, 5]) == {one: 4, two: 2}
    assert beliefs.reach([7]) == beliefs.reach([]) == {}
    beliefs.remember(three, [1])
    assert beliefs.reach([1, 2, 3]) == {one: 3, two: 2, three: 1}


def test_what_was_used_longest_ago_is_forgotten_first_and_a_prompts_end_before_its_start() -> None:
    beliefs = CacheBeliefs()
    bit = beliefs.join(capacity=4)
    beliefs.remember(bit, [1, 2, 3])
    beliefs.remember(bit, [10, 11])
    assert beliefs.reach([1, 2, 3]) == {bit: 2}
    beliefs.remember(bit, [1])
    beliefs.remember(bit, [20, 21])
    assert beliefs.reach([1, 2]) == {bit: 1}
    assert beliefs.reach([10, 11]) == {bit: 1}


def test_a_replica_that_leaves_takes_all_beliefs_about_it_along_and_its_bit_is_used_again() -> None:
    beliefs = CacheBeliefs()
    one, two = beliefs.join(capacity=10), beliefs.join(capacity=10)
    beliefs.remember(one, [1, 2])
    beliefs.remember(two, [1])
    beliefs.leave(one)
    assert beliefs.reach([1, 2]) == {two: 1}
    assert beliefs.join(capacity=10) == one
    assert beliefs.reach([1, 2]) == {two: 1}


@given(st.lists(st.tuples(st.integers(0, 3), PROMPTS), max_size=60), st.integers(1, 6), st.integers(4, 20))
def test_beliefs_are_bounded_and_never_reach_beyond_what_is_held(
    sent: list[tuple[int, list[int]]], capacity: int, most: int
) -> None:
    beliefs = CacheBeliefs(most_blocks=most)
    bits = [beliefs.join(capacity) for _ in range(4)]
    for index, blocks in sent:
        beliefs.remember(bits[index], blocks)
        for bit, depth in beliefs.reach(blocks).items():
            held = beliefs._held[bit]
            assert all(block in held for block in blocks[:depth])
            assert depth == len(blocks) or blocks[depth] not in held
    assert sum(beliefs.count(bit) for bit in bits) <= most
    assert all(beliefs.count(bit) <= capacity for bit in bits)
    held_by_any = {block for bit in bits for block in beliefs._held[bit]}
    assert held_by_any == beliefs._holders.keys()


def test_a_worker_hears_what_the_others_sent_once_and_not_what_it_sent_itself() -> None:
    rings = make_rings(3)
    one, two, three = (CacheNews(rings, own) for own in range(3))
    one.tell(7, [1, 2], now=1.0)
    one.tell(8, [1], now=1.0)
    two.tell(9, [3], now=1.0)
    assert three.hear() == [], "they are gathered for a moment"
    one.publish()
    two.publish()
    assert three.hear() == [(7, [1, 2]), (8, [1]), (9, [3])]
    assert three.hear() == []
    assert one.hear() == [(9, [3])]
    assert two.hear() == [(7, [1, 2]), (8, [1])]


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=8), st.integers(0, RING_WORDS))
def test_news_are_whole_wherever_the_ring_ends(sizes: list[int], start: int) -> None:
    rings = make_rings(2)
    rings[0][:8].cast("Q")[0] = start
    speaker, listener = CacheNews(rings, 0), CacheNews(rings, 1)
    for number, size in enumerate(sizes):
        blocks = list(range(number, number + size))
        speaker.tell(number, blocks, now=1.0)
        speaker.publish()
        assert listener.hear() == [(number, blocks)] * bool(blocks)


def test_a_block_is_told_once_a_second() -> None:
    rings = make_rings(2)
    speaker, listener = CacheNews(rings, 0), CacheNews(rings, 1)

    def heard(seat: int, blocks: list[int], now: float) -> list[tuple[int, list[int]]]:
        speaker.tell(seat, blocks, now)
        speaker.publish()
        return listener.hear()

    assert heard(1, [5, 6], 10.0) == [(1, [5, 6])]
    assert heard(1, [5, 7], 10.0) == [(1, [7])]
    assert heard(1, [5, 6], 10.9) == []
    assert heard(2, [5, 6], 10.9) == [(2, [5, 6])], "another replica has it now, too"
    assert heard(1, [5, 6], 10.0 + AGAIN_SECONDS) == [(1, [5, 6])]


def test_much_to_tell_does_not_wait_until_it_would_not_fit() -> None:
    rings = make_rings(2)
    speaker, listener = CacheNews(rings, 0), CacheNews(rings, 1)
    for number in range(20):
        speaker.tell(number, range(1000), now=1.0)
    heard = listener.hear()
    assert [seat for seat, _ in heard] == list(range(len(heard)))
    assert len(heard) == 18, "the last two wait for the moment to end"


def test_a_worker_that_listens_too_late_loses_news_and_hears_what_comes_then() -> None:
    rings = make_rings(2)
    speaker, listener = CacheNews(rings, 0), CacheNews(rings, 1)
    for number in range(10):
        speaker.tell(1, range(RING_WORDS // 8), now=float(number))
        speaker.publish()
    assert listener.hear() == []
    speaker.tell(2, [5], now=20.0)
    speaker.publish()
    assert listener.hear() == [(2, [5])]


def test_a_worker_that_starts_anew_goes_on_where_its_ring_stood() -> None:
    rings = make_rings(2)
    listener = CacheNews(rings, 1)
    for seat in (1, 2):
        speaker = CacheNews(rings, 0)
        speaker.tell(seat, [4 + seat], now=1.0)
        speaker.publish()
    assert listener.hear() == [(1, [5]), (2, [6])]


def test_what_another_processor_shows_before_it_is_written_is_dropped() -> None:
    rings = make_rings(2)
    speaker, listener = CacheNews(rings, 0), CacheNews(rings, 1)
    speaker.tell(1, [5], now=1.0)
    speaker.publish()
    rings[0][:8].cast("Q")[0] += 6  # counted, not there yet
    assert listener.hear() == [(1, [5])]
    speaker.tell(2, [6], now=1.0)
    speaker.publish()
    assert listener.hear() == [(2, [6])]
