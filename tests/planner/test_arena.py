"""The arena: what lives at the same time never overlaps, and little memory is wasted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.planner.memory import ALIGNMENT_BYTES, Lifetime, place


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    found = []
    for number in range(draw(st.integers(0, 30))):
        first = draw(st.integers(0, 20))
        last = draw(st.integers(first, min(first + 8, 25)))
        found.append(Lifetime(f"t{number}", draw(st.integers(0, 5000)), first, last))
    return found


def aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def least_bytes(items: list[Lifetime]) -> int:
    """The most that is alive at one step: no plan can do with less."""
    steps = range(max((i.last for i in items), default=-1) + 1)
    return max((sum(aligned(i.size_bytes) for i in items if i.first <= step <= i.last) for step in steps), default=0)


@settings(max_examples=300, deadline=None)
@given(lifetimes())
def test_nothing_alive_overlaps(items: list[Lifetime]):
    offsets, arena = place(items)
    assert offsets.keys() == {i.name for i in items}
    for item in items:
        assert offsets[item.name] % ALIGNMENT_BYTES == 0
        assert 0 <= offsets[item.name] <= offsets[item.name] + item.size_bytes <= arena
    for a, b in itertools.combinations(items, 2):
        if a.first <= b.last and b.first <= a.last:
            begin_a, begin_b = offsets[a.name], offsets[b.name]
            assert begin_a + aligned(a.size_bytes) <= begin_b or begin_b + aligned(b.size_bytes) <= begin_a, (a, b)
    assert least_bytes(items) <= arena <= sum(aligned(i.size_bytes) for i in items)


@given(lifetimes(), st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(items: list[Lifetime], random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert place(shuffled) == place(items)


def test_a_chain_of_layers_needs_two_buffers():
    items = [Lifetime(f"t{i}", 1024, i, i + 1) for i in range(50)]
    assert place(items)[1] == 2048


def test_gaps_are_used_the_tightest_first():
    items = [
        Lifetime("a", 4096, 0, 1),
        Lifetime("b", 2048, 0, 9),
        Lifetime("c", 1024, 2, 3),
        Lifetime("d", 3072, 2, 3),
    ]
    offsets, arena = place(items)
    assert arena == 6144
    assert {offsets["c"], offsets["d"]} <= set(range(4096))


@pytest.mark.parametrize("items", [[], [Lifetime("empty", 0, 0, 0)]])
def test_small_cases(items: list[Lifetime]):
    assert place(items)[1] == ALIGNMENT_BYTES * len(items)
