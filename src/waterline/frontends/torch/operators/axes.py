"""Axes as PyTorch writes them: negative numbers, single numbers and lists."""

from __future__ import annotations

from collections.abc import Sequence


def resolve(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis


def resolve_all(axes: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in order; None and an empty list mean all of them."""
    if axes is None or (not isinstance(axes, int) and len(axes) == 0):
        return tuple(range(rank))
    return tuple(sorted(resolve(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes)))
