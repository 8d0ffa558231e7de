"""Pool, AdaptivePool and Reduce."""

from __future__ import annotations

import numpy as np
import pytest

from waterline.graph.ops import AdaptivePool, Op, Pool, Reduce

from .harness import LAYOUTS, MACHINES, Case, channel_counts, check, with_specials

POOLS = [
    Pool("max", (3, 3), (2, 2), (1, 1, 1, 1)),
    Pool("max", (2, 2), (2, 2)),
    Pool("max", (1, 1), (3, 2)),
    Pool("max", (5, 5), (1, 1), (2, 2, 2, 2)),
    Pool("max", (2, 3), (1, 2), (0, 0, 1, 1), dilation=(2, 2)),
    Pool("max", (3, 3), (2, 2), (0, 0, 0, 0), ceil_mode=True),
    Pool("average", (2, 2), (2, 2)),
    Pool("average", (3, 3), (2, 2), (1, 0, 2, 1), ceil_mode=True),
    Pool("average", (3, 2), (1, 3), (1, 0, 2, 1), ceil_mode=True, count_include_pad=True),
    Pool("average", (3, 3), (1, 1), (1, 1, 1, 1)),
    Pool("average", (7, 5)),
    Pool("lp", (2, 2), norm=1),
    Pool("lp", (2, 2), norm=2),
    Pool("lp", (2, 2), norm=3),
    AdaptivePool("average"),
    AdaptivePool("max"),
    AdaptivePool("average", (3, 2)),
    AdaptivePool("max", (9, 11)),
]
REDUCTIONS = [
    Reduce("mean", (2, 3)),
    Reduce("mean", (1,), False),
    Reduce("max", (1,)),
    Reduce("l2", (0, 1, 2, 3)),
    Reduce("min", (3,), False),
    Reduce("sum", (0,)),
    Reduce("sum", (2,), False),
    Reduce("max", (0, 2)),
    Reduce("mean", ()),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [*POOLS, *REDUCTIONS], ids=str)
def test_layouts(op: Op, layout: str) -> None:
    check(Case(op, ((2, 19, 7, 5),), (layout,)))
    check(Case(op, ((2, 19, 7, 5),), (layout,), "dense"))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("channels", channel_counts())
def test_channels(channels: int, machine) -> None:
    for op in (POOLS[0], POOLS[8], AdaptivePool("average"), Reduce("max", (1,))):
        check(Case(op, ((2, channels, 7, 6),)), machine)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 7)])
def test_small_images(size) -> None:
    for op in (
        POOLS[0],
        Pool("average", (3, 3), (5, 5), (1, 1, 1, 1)),
        Pool("max", (1, 1), (4, 4)),
        AdaptivePool("max"),
    ):
        check(Case(op, ((1, 20, *size),)))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize(
    "op",
    [POOLS[0], POOLS[3], AdaptivePool("max"), AdaptivePool("average"), Reduce("max", (1,)), Reduce("min", (2,))],
    ids=str,
)
def test_nan_and_infinity(op: Op, machine) -> None:
    case = Case(op, ((2, 37, 9, 9),))
    check(case, machine, arrays=with_specials(case.arrays()))


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Reduce("mean", (2, 3)), (1, 3, 120, 121)),
        (Reduce("mean", (2, 3)), (1, 33, 60, 61)),
        (Reduce("sum", (1,)), (2, 10007)),
        (Reduce("l2", (0,)), (10007,)),
        (Reduce("max", (2,)), (2, 3, 1003)),
        (Reduce("mean", (1,)), (300, 5)),
    ],
)
def test_long_sums(op: Op, shape) -> None:
    """Sums of thousands: the error stays that of a few additions."""
    for layout in ("nhwc", "dense"):
        case = Case(op, (shape,), (layout,))
        arrays = [np.abs(array) + 1 for array in case.arrays()]
        check(case, arrays=arrays, relative=4e-7, absolute=0.0)


def test_sum_of_nothing() -> None:
    check(Case(Reduce("sum", (1,)), ((3, 0),), ("dense",)))
    with pytest.warns(RuntimeWarning, match="Mean of empty slice"):
        check(Case(Reduce("mean", (1,)), ((3, 0),), ("dense",)))
