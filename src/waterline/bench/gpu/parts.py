"""The parts of the suite, in their order, each with its share of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from waterline.bench.gpu import blocks, dense, grouped, networks
from waterline.bench.gpu.cases import Case
from waterline.bench.gpu.place import Place


@dataclass(frozen=True)
class Part:
    """Cases that share time.

    Attributes:
        weight: against the other parts' of those that are still to come: what one leaves is theirs.
        cases: of a place, those that tell most first.
    """

    name: str
    weight: float
    cases: Callable[[Place], Sequence[Case]]


PARTS = (
    Part("networks", 0.5, networks.cases),
    Part("layers", 0.16, dense.bf16),
    Part("grouped", 0.09, grouped.cases),
    Part("blocks", 0.13, blocks.cases),
    Part("winograd", 0.12, dense.exact),
)

__all__ = ["PARTS", "Part"]
