"""Shapes, strides and attributes that nobody thought of.

WATERLINE_FUZZ_SECONDS is the time for the whole file, with new examples every time. Without it, the same ones are tried
for about ten seconds.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waterline.errors import InvalidModel
from waterline.graph.ops import (
    AdaptivePool,
    Binary,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    Op,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Unary,
)
from waterline.spec import Activation

from .harness import LAYOUTS, MACHINES, Case, check

SECONDS = float(os.environ.get("WATERLINE_FUZZ_SECONDS", "10"))
EXAMPLES_PER_SECOND = 20  # each compiles a kernel or two
SIZES = st.integers(1, 9)
CHANNELS = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 33, 48])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An operation that is valid for its shapes, on layouts drawn for every tensor."""
    shape = (draw(st.integers(1, 3)), draw(CHANNELS), draw(SIZES), draw(SIZES))
    kind = draw(st.sampled_from(sorted(DRAWERS)))
    op, shapes = DRAWERS[kind](draw, shape)
    layouts = tuple(draw(st.sampled_from(sorted(LAYOUTS))) for _ in shapes)
    return Case(op, tuple(shapes), layouts, draw(st.sampled_from(sorted(LAYOUTS))))


Drawn = tuple[Op, list[tuple[int, ...]]]


def draw_pool(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    small = st.integers(1, 3)
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    op = Pool(
        draw(st.sampled_from(["max", "average", "lp"])),
        (draw(small), draw(small)),
        (draw(small), draw(small)),
        (pads[0], pads[1], pads[2], pads[3]),
        (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        draw(st.booleans()),
        draw(st.booleans()),
    )
    return op, [shape]


def draw_broadcast(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    other = tuple(size if draw(st.booleans()) else 1 for size in shape)[draw(st.integers(0, 4)) :]
    kind = draw(st.sampled_from(["add", "sub", "mul", "div", "max", "min"]))
    return Binary(kind, draw(st.sampled_from([None, Activation("relu")]))), [shape, other]


def draw_pad(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    side = st.integers(-1, 3)
    before, after = (tuple(draw(side) for _ in shape) for _ in range(2))
    return Pad(before, after, draw(st.sampled_from(["constant", "edge", "reflect"])), 1.5), [shape]


def draw_slice(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    place = st.integers(-10, 10)
    steps = tuple(draw(st.sampled_from([-2, -1, 1, 2, 3])) for _ in shape)
    return Slice((0, 1, 2, 3), tuple(draw(place) for _ in shape), tuple(draw(place) for _ in shape), steps), [shape]


def draw_reshape(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    n, c, h, w = shape
    forms = [(0, -1), (-1,), (0, h, w, c), (0, c, h * w), (0, h * c, w), (h, -1), (n, 1, c, w, h)]
    return Reshape(draw(st.sampled_from(forms))), [shape]


def draw_matmul(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    n, c, h, w = shape
    return MatMul(), draw(
        st.sampled_from([[shape, (n, c, w, h)], [(h, c), (c, w)], [(n, h, c), (c, w)], [(c,), (c, h)]])
    )


def draw_resize(draw: st.DrawFn, shape: tuple[int, ...]) -> Drawn:
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    return Resize(mode, (draw(SIZES), draw(SIZES))), [shape]


DRAWERS = {
    "adaptive": lambda draw, shape: (AdaptivePool("average", (draw(SIZES), draw(SIZES))), [shape]),
    "binary": draw_broadcast,
    "group norm": lambda draw, shape: (
        GroupNorm(draw(st.sampled_from([1, shape[1]]))),
        [shape, shape[1:2], shape[1:2]],
    ),
    "layer norm": lambda draw, shape: (LayerNorm(axis := draw(st.integers(1, 3))), [shape, shape[axis:], shape[axis:]]),
    "lrn": lambda draw, shape: (LocalResponseNorm(draw(st.integers(1, 7))), [shape]),
    "matmul": draw_matmul,
    "pad": draw_pad,
    "pool": draw_pool,
    "reduce": lambda draw, shape: (
        Reduce(draw(st.sampled_from(["mean", "max", "l2"])), tuple(sorted(draw(st.sets(st.integers(0, 3)))))),
        [shape],
    ),
    "reshape": draw_reshape,
    "resize": draw_resize,
    "slice": draw_slice,
    "softmax": lambda draw, shape: (Softmax(draw(st.integers(0, 3)), draw(st.booleans())), [shape]),
    "transpose": lambda draw, shape: (Transpose(tuple(draw(st.permutations(range(4))))), [shape]),
    "unary": lambda draw, shape: (Unary(Activation("hard_swish")), [shape]),
}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
def test_any_case(machine) -> None:
    @settings(
        max_examples=max(1, int(SECONDS * EXAMPLES_PER_SECOND / len(MACHINES))),
        deadline=None,
        database=None,
        derandomize="WATERLINE_FUZZ_SECONDS" not in os.environ,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def run(case: Case) -> None:
        try:
            case.output()
        except InvalidModel:
            return
        check(case, machine, relative=1e-4, absolute=1e-4)

    run()
