"""Blocks are never shared by accident, nothing is lost, and what is wasted is what the arithmetic says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError
from workshop_lib.corpora import dialogue
from workshop_lib.paging import BlockTable, Request, block_curve, simulate, trace


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=40), st.integers(1, 5))
def test_every_token_has_a_slot_of_its_own_and_released_blocks_come_back(steps, size):
    table, lengths = BlockTable(8, size), {}
    for request, tokens in steps:
        if tokens == 9 and request in lengths:
            table.release(request)
            del lengths[request]
        elif table.grow(request, tokens):
            lengths[request] = lengths.get(request, 0) + tokens
        else:  # full: really, and nothing was taken
            needed = -(-(lengths.get(request, 0) + tokens) // size) - len(table.held.get(request, ()))
            assert needed > len(table.free)
        slots = [table.slot(request, place) for request, length in lengths.items() for place in range(length)]
        assert len(set(slots)) == len(slots) and all(0 <= slot < 8 * size for slot in slots)
        assert table.slots_used == len(slots)
        assert table.slots_used <= table.slots_held < table.slots_used + size * max(1, len(lengths))
        assert len(table.free) * size + table.slots_held == 8 * size


def test_a_text_in_blocks_need_not_be_in_one_piece():
    table = BlockTable(3, 2)
    assert table.grow(0, 2) and table.grow(1, 1) and table.grow(0, 1)
    assert [table.slot(0, place) for place in range(3)] == [0, 1, 4]
    with pytest.raises(WorkshopError, match="3번째 자리"):
        table.slot(0, 3)
    assert not table.grow(1, 2) and table.grow(1, 1)


requests = st.lists(st.builds(Request, st.floats(0, 30), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=20)


@settings(deadline=None)
@given(requests, st.integers(1, 24), st.integers(24, 60))
def test_every_request_is_served_in_full_and_waste_is_what_is_held_and_empty(requests, size, slots):
    if slots // size * size < 24:
        slots = -(-24 // size) * size
    usage = simulate(requests, slots, size)
    assert len(usage.waits) == len(requests)
    # A request waits at least for its own answer.
    assert sum(usage.waits) >= sum(request.answer for request in requests) - 1e-6
    assert sum(usage.running) == sum(request.answer for request in requests)  # one token a step each, none twice
    assert all(held <= slots and used <= held for held, used in zip(usage.held, usage.used))
    assert 0 <= usage.waste < 1
    if size == 1:
        assert usage.waste == 0


def test_one_request_by_hand():
    usage = simulate([Request(0.0, 3, 4)], slots=16, block_size=4)
    assert usage.used == [4, 5, 6, 7] and usage.held == [4, 8, 8, 8]
    assert usage.waits == [4] and usage.waste == pytest.approx(1 - 22 / 28) and usage.preempted == 0


def test_a_full_memory_sends_the_youngest_back_and_finishes_all():
    usage = simulate([Request(0.0, 4, 8), Request(0.0, 4, 8)], slots=14, block_size=2)
    assert usage.preempted >= 1
    assert len(usage.waits) == 2 and min(usage.waits) == 8  # the oldest is never disturbed


def test_who_was_sent_back_comes_first_and_reads_again_what_it_had_written():
    """By hand. Step 1: the third gives way to the second. Step 2: the second, four tokens long, to the first; both wait till it is done."""
    usage = simulate([Request(0.0, 2, 6), Request(0.0, 2, 4), Request(1.0, 1, 2)], slots=8, block_size=1)
    assert usage.used == [3 + 3, 4 + 4, 5, 6, 7, 8, 5 + 2, 6, 3]
    assert usage.running == [2, 2, 1, 1, 1, 1, 2, 1, 1]
    assert usage.waits == [6, 8, 8] and usage.preempted == 3


def test_small_blocks_hold_more_requests_than_reservations_on_real_conversations():
    conversations = [row["messages"] for row in dialogue.instructions(300)]
    requests = trace(conversations, len, rate=0.5)
    assert len(requests) == 300
    assert all(a.arrival < b.arrival for a, b in zip(requests, requests[1:]))
    assert 300 / requests[-1].arrival == pytest.approx(0.5, rel=0.2)
    assert requests[0].prompt == len(conversations[0][0]["content"]) and requests[0].answer == len(conversations[0][1]["content"])
    rows = block_curve(requests, slots=1_024, sizes=(1, 16, 256))
    wastes, together = ([row[key] for row in rows] for key in ("waste", "at_once"))
    assert wastes[0] == 0 and np.all(np.diff(wastes) > 0) and wastes[-1] > 0.5
    assert together[0] >= together[1] > 2 * together[2]
    assert rows[1]["steps"] < rows[2]["steps"]


def test_several_turns_are_several_requests_and_nonsense_is_refused():
    talk = [{"role": role, "content": text} for role, text in (("system", "ab"), ("user", "abc"), ("assistant", "a"), ("user", "b"),
                                                               ("assistant", "cd"))]
    assert [(r.prompt, r.answer) for r in trace([talk], len, 1.0)] == [(5, 1), (7, 2)]
    for run, message in (
        (lambda: trace([talk[:2]], len, 1.0), "답이 하나도"),
        (lambda: trace([talk], len, 0.0), "0보다"),
        (lambda: BlockTable(0, 4), "1 이상"),
        (lambda: simulate([Request(0.0, 10, 10)], 16, 4), "20토큰"),
        (lambda: simulate([Request(0.0, 1, 1)], 16, 32), "1 이상"),
    ):
        with pytest.raises(WorkshopError, match=message):
            run()
