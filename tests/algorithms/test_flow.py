"""Rows of a block: what each layer computes, and what its buffer holds when others read it.

The simulation keeps one number for every place of every buffer, the row of the image that lies there, and does what the
kernel does: compute rows, and move those that are still needed to the beginning when there is no more room.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.algorithms.block_fusion.flow import Flow, end_needed, first_needed, least_rows, overlaps
from waterline.algorithms.columns import Window

FULL = 500  # rows of a buffer that is never full


# ---- windows --------------------------------------------------------------------------------------------------------
def reads(window: Window, first: int, end: int) -> set[int]:
    """Input rows that the output rows [first, end) read, by definition."""
    taps = range(window.taps)
    return {row for p in range(first, end) for tap in taps if 0 <= (row := _place(window, p, tap)) < window.size}


def _place(window: Window, output: int, tap: int) -> int:
    return output * window.stride + tap * window.dilation - window.before


@st.composite
def windows(draw: st.DrawFn, size: int | None = None, outputs: int | None = None) -> Window:
    """Any filter, stride, dilation and padding (also negative) that leaves some rows; filters may reach nothing."""
    size = draw(st.integers(1, 12) | st.integers(30, 60)) if size is None else size
    taps, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    before = draw(st.integers(-1, 5))
    if outputs is None:
        most = (size + before + draw(st.integers(-1, 5)) - (taps - 1) * dilation - 1) // stride + 1
        outputs = max(most, 1)
    return Window(taps, stride, dilation, before, size, outputs)


@given(windows(), st.data())
def test_what_is_read_lies_between_the_first_and_the_end(window: Window, data: st.DataObject):
    first = data.draw(st.integers(0, window.outputs - 1))
    end = data.draw(st.integers(first + 1, window.outputs))
    begin, behind = first_needed(window, first), end_needed(window, end)
    assert 0 <= begin <= window.size
    assert 0 <= behind <= window.size
    rows = reads(window, first, end)
    assert not rows or begin <= min(rows)
    assert not rows or max(rows) < behind
    inner = data.draw(st.integers(first, end - 1))
    assert begin <= first_needed(window, inner), "later rows need nothing before"
    assert end_needed(window, inner + 1) <= behind


@pytest.mark.parametrize(
    ("window", "strip", "rows"),
    [
        (Window(1, 1, 1, 0, 8, 8), (2, 4), (2, 4)),
        (Window(3, 1, 1, 1, 8, 8), (0, 2), (0, 3)),
        (Window(3, 1, 1, 1, 8, 8), (2, 4), (1, 5)),
        (Window(3, 1, 1, 1, 8, 8), (6, 8), (5, 8)),
        (Window(3, 2, 1, 1, 8, 4), (1, 3), (1, 6)),
        (Window(3, 1, 2, 2, 8, 8), (3, 4), (1, 6)),
        (Window(7, 1, 1, 3, 8, 8), (0, 8), (0, 8)),
        (Window(1, 3, 1, 0, 8, 3), (1, 3), (3, 7)),  # rows between those that are read are computed too
        (Window(2, 1, 1, 3, 4, 9), (0, 2), (0, 0)),  # all in the padding
        (Window(2, 1, 1, 0, 4, 9), (7, 9), (4, 4)),
    ],
)
def test_rows_by_hand(window: Window, strip: tuple[int, int], rows: tuple[int, int]):
    assert (first_needed(window, strip[0]), end_needed(window, strip[1])) == rows


def test_a_chain_by_hand():
    """3x3 and 3x3 over 8 rows in strips of 4: at first 5 rows inside, then the 3 that are missing, 2 read again."""
    same = Window(3, 1, 1, 1, 8, 8)
    flow = Flow((same, same), ((1,), ()))
    assert flow.strips(4) == 2
    assert flow.needed((0, 4), [0, 0]) == ([(0, 5), (0, 4)], [0, 0])
    assert flow.needed((4, 8), [5, 4]) == ([(5, 8), (4, 8)], [3, 0])
    assert flow.needed((4, 8), [0, 0])[0] == [(3, 8), (4, 8)], "a band of its own computes two rows again"
    band = flow.band(0, 2, 4)
    assert (band.kept[0], band.again[0]) == (5, 2)
    assert least_rows(flow, 4) == (5,)
    assert overlaps(flow, 4) == (2,)
    assert overlaps(flow, 8) == ()
    assert flow.computed(4, 1) == (8, 8)
    assert flow.computed(4, 2) == (10, 8)
    assert flow.strips(3) == 3
    assert flow.needed((6, 8), [0, 0])[0] == [(5, 8), (6, 8)]


# ---- the simulation -------------------------------------------------------------------------------------------------
@dataclass
class Buffer:
    """Rows of a layer: where the first place lies in the image, and the image's row in every place."""

    places: list[int | None]
    origin: int | None = None  # None: nothing is inside

    @property
    def size(self) -> int:
        return len(self.places)

    def slide(self, kept: int, done: int, end: int) -> None:
        """Makes room for the rows before `end`: as the kernel's `_slide`."""
        if self.origin is not None and end - self.origin <= self.size:
            return
        if self.origin is not None:
            moved = [self.places[row - self.origin] for row in range(kept, done)]
            assert moved == list(range(kept, done)), "rows are moved that are not there"
            self.places = moved + [None] * (self.size - len(moved))
        self.origin = kept

    def write(self, first: int, end: int) -> None:
        for row in range(first, end):
            assert self.origin is not None
            assert 0 <= row - self.origin < self.size, f"row {row} is written outside of the buffer"
            self.places[row - self.origin] = row

    def holds(self, row: int) -> bool:
        at = -1 if self.origin is None else row - self.origin
        return 0 <= at < self.size and self.places[at] == row


def simulate(flow: Flow, buffer_rows: tuple[int, ...], first: int, strips: int, strip_rows: int) -> list[int]:
    """Runs a band. Returns how many rows each layer has computed; fails where one reads what is not there."""
    count = len(flow.windows)
    buffers = [Buffer([None] * rows) for rows in buffer_rows]
    done, computed_rows = [0] * count, [0] * count
    result: list[int] = []
    for number in range(first, first + strips):
        strip = (number * strip_rows, min((number + 1) * strip_rows, flow.rows))
        computed, kept = flow.needed(strip, done)
        for i, (begin, end) in enumerate(computed):
            assert begin <= end
            if i < count - 1:
                buffers[i].slide(kept[i], done[i], end)
            for j, readers in enumerate(flow.readers[:i]):
                if i in readers:
                    missing = [row for row in reads(flow.windows[i], begin, end) if not buffers[j].holds(row)]
                    assert not missing, f"layer {i} reads rows {missing} of layer {j}: {buffers[j]}"
            if i < count - 1:
                buffers[i].write(begin, end)
            else:
                result += range(begin, end)
            done[i] = max(done[i], end)
            computed_rows[i] += end - begin
    last = min((first + strips) * strip_rows, flow.rows)
    assert result == list(range(first * strip_rows, last)), "the rows of the result, each once and in order"
    return computed_rows


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Layers of which each reads one tensor inside through its window, and perhaps others of the same height.

    As in blocks: all tensors inside that a layer reads have as many rows; what is not read by anyone is read last.
    """
    count = draw(st.integers(2, 6))
    layers: list[Window] = [draw(windows())]
    inputs: list[list[int]] = [[]]
    for i in range(1, count):
        source = draw(st.integers(max(0, i - 3), i - 1))
        rows = layers[source].outputs
        if draw(st.booleans()):
            window = Window(1, 1, 1, 0, rows, rows)  # an operator, or a residual
            others = [j for j in range(i) if layers[j].outputs == rows and j != source]
            own = [source, *(draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else [])]
        else:
            window, own = draw(windows(size=rows)), [source]
        layers.append(window)
        inputs.append(own)
    readers = [tuple(j for j, own in enumerate(inputs) if i in own) for i in range(count)]
    for i in range(count - 2, -1, -1):  # a layer that nobody reads is taken out
        if not readers[i]:
            layers.pop(i)
            readers.pop(i)
            readers = [tuple(j - (j > i) for j in own if j != i) for own in readers]
    return Flow(tuple(layers), tuple(readers))


@settings(max_examples=120)
@given(flows(), st.data())
def test_nothing_is_read_before_it_is_computed_or_after_it_is_gone(flow: Flow, data: st.DataObject):
    strip_rows = data.draw(st.integers(1, flow.rows), label="strip rows")
    count = flow.strips(strip_rows)
    assert (count - 1) * strip_rows < flow.rows <= count * strip_rows
    least = least_rows(flow, strip_rows)
    more = tuple(rows + data.draw(st.integers(0, 3)) for rows in least)
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=3), label="bands")})
    for begin, end in itertools.pairwise(cuts):
        found = [simulate(flow, rows, begin, end - begin, strip_rows) for rows in (least, more, (FULL,) * len(least))]
        assert found[0] == found[1] == found[2], "what is computed does not depend on the buffers"


def has_gaps(window: Window) -> bool:
    """Whether there are input rows between those that are read."""
    return window.stride > (window.taps - 1) * window.dilation + 1


@settings(max_examples=60)
@given(flows(), st.data())
def test_rows_that_the_cost_model_counts(flow: Flow, data: st.DataObject):
    """In one band every row once; each further band adds those that it shares with the one before."""
    strip_rows = data.draw(st.integers(1, flow.rows), label="strip rows")
    strips = flow.strips(strip_rows)
    counted, simulated = (
        flow.computed(strip_rows, 1),
        simulate(flow, (FULL,) * len(flow.windows), 0, strips, strip_rows),
    )
    assert all(a >= b for a, b in zip(counted, simulated, strict=True))
    assert all(rows <= window.outputs for rows, window in zip(counted, flow.windows, strict=True))
    if not any(map(has_gaps, flow.windows)):
        assert list(counted) == simulated
    assert flow.computed(strip_rows, strips)[-1] == counted[-1] == flow.rows
    if strips == 1:
        assert overlaps(flow, strip_rows) == ()


def test_the_simulation_notices_buffers_that_are_too_small():
    same = Window(3, 1, 1, 1, 8, 8)
    flow = Flow((same, same), ((1,), ()))
    assert simulate(flow, (5,), 0, 2, 4) == [8, 8]
    with pytest.raises(AssertionError, match="outside of the buffer"):
        simulate(flow, (4,), 0, 2, 4)
