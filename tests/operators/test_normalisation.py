"""LayerNorm, GroupNorm, LocalResponseNorm and Softmax."""

from __future__ import annotations

import numpy as np
import pytest

from waterline.graph.ops import GroupNorm, LayerNorm, LocalResponseNorm, Softmax

from .harness import LAYOUTS, MACHINES, Case, channel_counts, check, with_specials

RESPONSES = [
    LocalResponseNorm(5),
    LocalResponseNorm(4, alpha=0.1, beta=0.6),
    LocalResponseNorm(3, beta=0.5, bias=2.0),
    LocalResponseNorm(40, beta=1.0),
    LocalResponseNorm(1, alpha=1.0),
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("channels", [*channel_counts(), 96, 300])
def test_channels(channels: int, machine) -> None:
    parameters = ((channels,), (channels,))
    check(Case(LayerNorm(3), ((2, 3, 7, channels), *parameters), ("dense",)), machine, absolute=3e-6)
    check(Case(GroupNorm(1), ((2, channels, 3, 7), *parameters), ("nhwc",)), machine, absolute=3e-6)
    check(Case(GroupNorm(channels), ((2, channels, 3, 7), *parameters), ("nhwc",)), machine, absolute=3e-6)
    check(Case(RESPONSES[0], ((2, channels, 3, 7),)), machine)
    check(Case(Softmax(1), ((2, channels),), ("dense",)), machine, absolute=0.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layer_norm(layout: str) -> None:
    check(Case(LayerNorm(3), ((2, 5, 7, 33), (33,), (33,)), (layout, "dense")), absolute=3e-6)
    check(Case(LayerNorm(1, bias=False), ((2, 9, 5, 7), (9, 5, 7)), (layout, "dense")), absolute=3e-6)
    check(Case(LayerNorm(2), ((2, 9, 5, 7), (5, 7), (5, 7)), (layout, "dense")), absolute=3e-6)
    check(Case(LayerNorm(0), ((5, 11),) * 3, (layout, "dense")), absolute=3e-6)


def test_layer_norm_far_from_zero() -> None:
    """A mean a thousand times the deviation: one pass over the squares would lose it."""
    case = Case(LayerNorm(1), ((4, 768), (768,), (768,)), ("dense",))
    x, scale, bias = case.arrays()
    check(case, arrays=[x + 1000, scale, bias], absolute=2e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 4, 8, 24])
def test_group_norm(groups: int, layout: str) -> None:
    check(Case(GroupNorm(groups), ((2, 24, 5, 7), (24,), (24,)), (layout, "dense")), absolute=3e-6)
    check(Case(GroupNorm(groups), ((2, 24), (24,), (24,)), (layout, "dense")), absolute=3e-6)
    check(Case(GroupNorm(groups), ((2, 24, 9), (24,), (24,)), (layout, "dense")), absolute=3e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", RESPONSES, ids=str)
def test_local_response(op: LocalResponseNorm, layout: str) -> None:
    check(Case(op, ((2, 37, 3, 5),), (layout,)))
    check(Case(op, ((2, 3, 5),), (layout,)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(log: bool, axis: int, layout: str) -> None:
    check(Case(Softmax(axis, log), ((2, 19, 5, 7),), (layout,)), absolute=1e-6 if log else 0.0)
    case = Case(Softmax(axis, log), ((2, 19, 5, 33),), (layout,))
    check(case, arrays=[30 * case.arrays()[0]], absolute=2e-5 if log else 1e-38, relative=1e-5)


def test_softmax_of_classes() -> None:
    check(Case(Softmax(1), ((3, 1000),), ("dense",)), absolute=0.0)
    check(Case(Softmax(0), ((1000,),), ("dense",)), absolute=0.0)
    check(Case(Softmax(1), ((1, 21, 30, 40),)), absolute=0.0)


@pytest.mark.parametrize("op", [Softmax(1), Softmax(2), LocalResponseNorm(3)], ids=str)
def test_nan_and_infinity(op) -> None:
    case = Case(op, ((4, 9, 8),), ("dense",))
    check(case, arrays=with_specials(case.arrays(), 0.02))


def test_layer_norm_of_nan() -> None:
    case = Case(LayerNorm(1), ((4, 33), (33,), (33,)), ("dense",))
    x, scale, bias = case.arrays()
    x[1, 5], x[2, 7] = np.nan, np.inf
    check(case, arrays=[x, scale, bias], absolute=3e-6)
