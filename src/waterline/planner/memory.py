"""One arena for all intermediate tensors: memory is shared by tensors that are never alive together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.planner.lower import Lowered

ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Lifetime:
    """Memory that is needed from step `first` to step `last` inclusive."""

    name: str
    size_bytes: int
    first: int
    last: int


def lifetimes(lowered: Lowered, elem_bytes: int) -> list[Lifetime]:
    """When each root of the arena is first written and last used."""
    outside = lowered.inputs | lowered.outputs | lowered.constants
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, layer in enumerate(lowered.layers):
        for storage in (*layer.inputs, *layer.outputs):
            if storage.root not in outside:
                first.setdefault(storage.root, i)
                last[storage.root] = i
    return [Lifetime(name, lowered.root_elems[name] * elem_bytes, first[name], last[name]) for name in first]


def place(lifetimes: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets in the arena, and its size: the smaller of two greedy placements.

    (Greedy by size and greedy by breadth of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference", 2020.)
    """
    alive: dict[int, int] = {}  # step -> bytes that it needs in all
    for item in lifetimes:
        for step in range(item.first, item.last + 1):
            alive[step] = alive.get(step, 0) + item.size_bytes

    def by_size(item: Lifetime) -> tuple[float, ...]:
        return (-item.size_bytes, item.first)

    def by_breadth(item: Lifetime) -> tuple[float, ...]:
        return (-max(alive[step] for step in range(item.first, item.last + 1)), *by_size(item))

    orders = (sorted(lifetimes, key=lambda item: (*key(item), item.name)) for key in (by_size, by_breadth))
    return min((_placed(order) for order in orders), key=lambda placed: placed[1])


def _placed(lifetimes: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """One after the other, each in the tightest gap that is free."""
    placed: list[tuple[int, int, Lifetime]] = []  # (offset, end, lifetime)
    offsets: dict[str, int] = {}
    arena = 0
    for item in lifetimes:
        size = -(-max(item.size_bytes, 1) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        rivals = sorted(
            (begin, end) for begin, end, other in placed if other.first <= item.last and item.first <= other.last
        )
        best, tightest, cursor = None, None, 0
        for begin, end in rivals:
            gap = begin - cursor
            if gap >= size and (tightest is None or gap < tightest):
                best, tightest = cursor, gap
            cursor = max(cursor, end)
        offset = cursor if best is None else best
        placed.append((offset, offset + size, item))
        offsets[item.name] = offset
        arena = max(arena, offset + size)
    return offsets, arena
