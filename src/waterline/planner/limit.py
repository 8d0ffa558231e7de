"""The limit of memory between layers: how much of it the workspaces of each layer may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from waterline.planner.memory import ALIGNMENT_BYTES, Lifetime


class Rooms:
    """What `limit_bytes` leaves for workspaces beside the tensors that are alive at each step.

    `beside_bytes[i]` are those of step i. Scratch memory of threads is not counted: it is not in the arena, and a plan
    does not know how many threads will run it.
    """

    def __init__(self, limit_bytes: int, beside_bytes: Sequence[int]) -> None:
        self._limit = limit_bytes
        self._beside = beside_bytes
        self._given_up: dict[int, int] = {}

    def refusal(self, step: int, sizes: Mapping[str, int]) -> str:
        """Why a layer may not have workspaces of these sizes, or ""."""
        needed = total_bytes(sizes.values())
        if not needed:
            return ""  # whatever the limit is, the layer adds nothing to what lies there anyway
        beside = self._beside[step]
        if needed + beside > self._limit:
            return (
                f"its workspaces take {needed} bytes and the tensors beside them {beside}, "
                f"workspace_bytes allows {self._limit}"
            )
        if needed >= self._given_up.get(step, needed + 1):
            return f"with its workspaces of {needed} bytes the arena exceeds the {self._limit} of workspace_bytes"
        return ""

    def give_up(self, step: int, sizes: Mapping[str, int]) -> None:
        """From now on the step gets less than this."""
        self._given_up[step] = total_bytes(sizes.values())


def total_bytes(sizes: Iterable[int]) -> int:
    """In the arena, where each is aligned; nothing where all are empty."""
    return sum(-(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for size in sizes)


def alive_bytes(tensors: Sequence[Lifetime], steps: int) -> list[int]:
    """Bytes of the tensors that are alive at each step: no arena is smaller than the largest of these."""
    return [total_bytes(each.size_bytes for each in tensors if each.first <= i <= each.last) for i in range(steps)]


def culprit(
    lifetimes: Sequence[Lifetime], offsets: Mapping[str, int], limit_bytes: int, sizes: Sequence[Mapping[str, int]]
) -> int | None:
    """The step to give workspaces up when the arena exceeds the limit: the largest beside what lies too high, else the
    largest of all; None where there are no workspaces."""
    high = [each for each in lifetimes if offsets[each.name] + each.size_bytes > limit_bytes]
    near = {i for each in high for i in range(each.first, each.last + 1)}
    totals = [(i in near, total_bytes(each.values()), -i) for i, each in enumerate(sizes) if total_bytes(each.values())]
    return -max(totals)[2] if totals else None
