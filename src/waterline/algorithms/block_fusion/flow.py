"""Which rows of its layers a block computes for a strip of its result, and how many of them must be kept.

A block goes over its result strip by strip of rows, from the top. For each strip every layer computes those rows that
the layers behind it need and that are not there yet. What a layer has computed lies in a buffer of some rows; when it is
full, the rows that are still needed move to its beginning: a window that slides down the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        done, kept_rows, all_computed = [0] * count, [0] * count, [0] * count
        again = [0] * count
        for number in range(first, first + strips):
            strip = (number * strip_rows, min((number + 1) * strip_rows, self.rows))
            computed, kept = self.needed(strip, done)
            for i, (begin, end) in enumerate(computed):
                all_computed[i] += end - begin
                kept_rows[i] = max(kept_rows[i], end - kept[i])
                again[i] += max(0, done[i] - kept[i])
                done[i] = max(done[i], end)
        return Band(tuple(all_computed), tuple(kept_rows), tuple(again))

    def least_rows(self, strip_rows: int) -> tuple[int, ...]:
        """Rows that each layer's buffer must hold, wherever a band begins."""
        count = self.strips(strip_rows)
        bands = [self.band(0, count, strip_rows)] + [self.band(i, 1, strip_rows) for i in range(count)]
        return tuple(max(rows) for rows in zip(*(band.kept for band in bands), strict=True))


@dataclass(frozen=True)
class Band:
    """Sums over the strips of a band, for each layer.

    Attributes:
        computed: rows. kept: the most rows that must be there at once. again: rows that are there when a strip begins
            and are read by it.
    """

    computed: tuple[int, ...]
    kept: tuple[int, ...]
    again: tuple[int, ...]
