"""Which rows of its layers a block computes for a strip of its result, and how many of them must be kept.

A block goes over its result strip by strip of rows, from the top. For each strip every layer computes those rows that
the layers behind it need and that are not there yet. What a layer has computed lies in a buffer of some rows: a ring,
or a window that slides down the image, whose rows that are still needed move to its beginning when it is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from waterline.algorithms.columns import Window

Rows = tuple[int, int]  # first row, and the one behind the last


def first_needed(window: Window, row: int) -> int:
    """The first input row that an output row reads."""
    return min(max(row * window.stride - window.before, 0), window.size)


def end_needed(window: Window, end: int) -> int:
    """Behind the last input row that the output rows before `end` read."""
    last = (end - 1) * window.stride - window.before + (window.taps - 1) * window.dilation
    return min(max(last + 1, 0), window.size)


@dataclass(frozen=True)
class Flow:
    """The layers of a block as far as rows are concerned.

    Attributes:
        windows: of each layer, from its output's rows to those of all its inputs inside the block.
        readers: of each layer the layers that read its result; none for the last.
    """

    windows: tuple[Window, ...]
    readers: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        """Of the block's result."""
        return self.windows[-1].outputs

    def strips(self, strip_rows: int) -> int:
        return -(-self.rows // strip_rows)

    def needed(self, strip: Rows, done: Sequence[int]) -> tuple[list[Rows], list[int]]:
        """For a strip of the result: the rows that each layer computes, and the first of each that must be there.

        Args:
            done: behind the last row that each layer has computed in this band; 0 at its beginning.
        """
        count = len(self.windows)
        computed: list[Rows] = [(0, 0)] * count
        kept = [0] * count
        computed[-1] = strip
        for i in range(count - 2, -1, -1):
            kept[i] = min(first_needed(self.windows[j], computed[j][0]) for j in self.readers[i])
            end = max(end_needed(self.windows[j], computed[j][1]) for j in self.readers[i])
            first = max(done[i], kept[i])
            computed[i] = (first, max(first, end))
        return computed, kept

    def band(self, first: int, strips: int, strip_rows: int) -> Band:
        """What a thread does that computes so many strips from number `first` on."""
        count = len(self.windows)
        done, kept_rows, again = [0] * count, [0] * count, [0] * count
        for number in range(first, first + strips):
            strip = (number * strip_rows, min((number + 1) * strip_rows, self.rows))
            computed, kept = self.needed(strip, done)
            for i, (_, end) in enumerate(computed):
                kept_rows[i] = max(kept_rows[i], end - kept[i])
                again[i] += max(0, done[i] - kept[i])
                done[i] = max(done[i], end)
        return Band(tuple(kept_rows), tuple(again))

    def computed(self, strip_rows: int, bands: int) -> tuple[int, ...]:
        """Rows that each layer computes for an image in so many bands, those that two bands compute counted twice."""
        if not overlaps(self, strip_rows):
            bands = 1
        strips = self.strips(strip_rows)
        ends = [min(band * strips // bands * strip_rows, self.rows) for band in range(bands + 1)]
        total = [0] * len(self.windows)
        for band in pairwise(ends):
            rows, _ = self.needed(band, [0] * len(total))
            total = [count + end - begin for count, (begin, end) in zip(total, rows, strict=True)]
        return tuple(total)


@dataclass(frozen=True)
class Band:
    """Of the strips of a band, for each layer.

    Attributes:
        kept: the most rows that must be there at once. again: rows that are there when a strip begins and
            are read by it, summed over the strips.
    """

    kept: tuple[int, ...]
    again: tuple[int, ...]


@lru_cache(maxsize=4096)
def overlaps(flow: Flow, strip_rows: int) -> tuple[int, ...]:
    """Rows of each inner layer that a strip reads again, once it is under way; () where no strip does."""
    strips = min(3, flow.strips(strip_rows))
    again = flow.band(0, strips, strip_rows).again[:-1]
    return tuple(-(-rows // (strips - 1)) for rows in again) if any(again) else ()


@lru_cache(maxsize=4096)
def least_rows(flow: Flow, strip_rows: int) -> tuple[int, ...]:
    """Rows that each inner layer's buffer must hold, wherever a band begins.

    Far from the borders every strip needs as much as its neighbours, so that the first ones tell.
    """
    strips = flow.strips(strip_rows)
    reach = sum((window.taps - 1) * window.dilation + window.stride for window in flow.windows)
    told = min(strips, 4 + -(-reach // strip_rows))
    firsts = {*range(told), *range(strips - told, strips)}
    bands = [flow.band(0, told, strip_rows), flow.band(strips - told, told, strip_rows)]
    bands += [flow.band(first, 1, strip_rows) for first in firsts]
    return tuple(max(rows) for rows in zip(*(band.kept[:-1] for band in bands), strict=True))
