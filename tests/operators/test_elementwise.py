"""Unary, Binary and PRelu on every layout, with broadcasting and special values."""

from __future__ import annotations

import numpy as np
import pytest

from waterline.graph.ops import BINARY_KINDS, Binary, PRelu, Unary
from waterline.operators import lower
from waterline.spec import Activation

from .harness import LAYOUTS, LOCAL, MACHINES, Case, channel_counts, check

SPECIAL = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 3e38, 1e-40])


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("channels", channel_counts())
def test_channels(channels: int, machine) -> None:
    check(Case(Binary("add", Activation("relu")), ((2, channels, 3, 5),) * 2), machine)
    check(Case(Unary(Activation("silu")), ((1, channels, 1, 7),)), machine)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "other",
    [(2, 19, 3, 5), (2, 19, 1, 1), (1, 19, 1, 1), (19, 1, 1), (), (1,), (2, 1, 3, 5), (5,), (3, 1), (2, 1, 1, 1)],
)
def test_broadcasting(other, layout: str) -> None:
    for shapes in (((2, 19, 3, 5), other), (other, (2, 19, 3, 5))):
        check(Case(Binary("sub"), shapes, ("dense", "dense"), layout))
        check(Case(Binary("mul"), ((2, 19, 3, 5), other), (layout, "dense")))


def test_both_sides_grow() -> None:
    check(Case(Binary("add"), ((3, 1, 5), (4, 1)), ("dense",)))
    check(Case(Binary("add"), ((), ()), ("dense",)))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_special_values(kind: str, machine) -> None:
    a, b = (grid.reshape(1, -1) for grid in np.meshgrid(SPECIAL, SPECIAL))
    check(Case(Binary(kind), (a.shape, b.shape), ("dense",)), machine, arrays=[a, b], absolute=0.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prelu(layout: str) -> None:
    check(Case(PRelu(), ((2, 21, 3, 4), (21, 1, 1)), (layout, "dense")))
    check(Case(PRelu(), ((2, 21, 3, 4), (1,)), (layout, "dense")))
    values = SPECIAL.reshape(1, -1)
    check(Case(PRelu(), (values.shape, (1,)), ("dense",)), arrays=[values, np.float32([0.25])])


@pytest.mark.parametrize("shape", [(40000,), (1, 3, 120, 121), (2, 9001), (1, 1), (1,), ()])
def test_long_and_short(shape) -> None:
    """Rows that are cut into spans, and tensors of one element."""
    check(Case(Unary(Activation("hard_swish")), (shape,), ("dense",)))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (0,)])
def test_empty(shape) -> None:
    case = Case(Unary(Activation("relu")), (shape,), ("dense",))
    assert lower(case.op, case.views(), [case.output()], LOCAL) == []
