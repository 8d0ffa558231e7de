import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.graph.ops import COORDINATES, END, ROUNDINGS, Concat, Expand, Pad, Reshape, Resize, Slice, Transpose
from waterline.reference import evaluate

from .oracles import assert_close, run_onnx, tensor

X = np.random.default_rng(0).normal(size=(2, 3, 5, 6))


def test_concat():
    for axis in range(4):
        assert_close(evaluate(Concat(axis), [X, 2 * X, -X]), torch.cat([tensor(X), tensor(2 * X), tensor(-X)], axis))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(-3, 3).filter(bool)), min_size=2, max_size=2)
)
def test_slice_agrees_with_onnx(ranges):
    starts, stops, steps = (tuple(column) for column in zip(*ranges, strict=True))
    actual = evaluate(Slice((3, 2), starts, stops, steps), [X])
    expected = run_onnx("Slice", X, *(np.array(v, np.int64) for v in (starts, stops, (3, 2), steps)))
    assert_close(actual, expected)


def test_slice_to_the_end():
    assert_close(evaluate(Slice((2,), (1,), (END,), (2,)), [X]), X[:, :, 1::2])
    assert_close(evaluate(Slice((2, 3), (-1, END), (-END - 1, -END - 1), (-1, -2)), [X]), X[:, :, ::-1, ::-2])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 3, 4), (0, 0, 0, 0, 0, 0, 0, 0), (1, 2, 0, 1, 1, 0, 4, 2)])
def test_pad(mode, pads):
    before, after = pads[:4], pads[4:]
    if mode == "reflect" and before[:2] != (0, 0):
        before, after = (0, 0, *before[2:]), (0, 0, *after[2:])
    extra = {"constant_values": 2.5} if mode == "constant" else {}
    expected = np.pad(X, tuple(zip(before, after, strict=True)), mode=mode, **extra)
    assert_close(evaluate(Pad(before, after, mode, 2.5), [X]), expected)


@pytest.mark.parametrize(
    ("torch_mode", "mode"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge")]
)
@pytest.mark.parametrize("sides", [(-1, 2, 1, -2), (-2, -1, -1, 0), (3, -4, 0, 1)])
def test_negative_pads_crop(torch_mode, mode, sides):
    left, right, top, bottom = sides
    op = Pad((0, 0, top, left), (0, 0, bottom, right), mode, 0.0)
    assert_close(evaluate(op, [X]), F.pad(tensor(X), sides, torch_mode))


def test_pad_of_nothing():
    assert_close(evaluate(Pad((1, 0), (1, 2), "constant", 7.0), [np.zeros((0, 3))]), np.full((2, 5), 7.0))


def test_reshape_transpose_expand():
    assert_close(evaluate(Reshape((0, -1)), [X]), X.reshape(2, -1))
    for perm in itertools.permutations(range(4)):
        assert_close(evaluate(Transpose(perm), [X]), tensor(X).permute(perm))
    assert_close(evaluate(Expand((2, 1, 5, 1)), [X[:1, :, :1]]), tensor(X[:1, :, :1]).expand(2, 3, 5, 6))


# ---- resizing -------------------------------------------------------------------------------------------------------
SIZES = [(10, 12), (5, 6), (3, 4), (7, 5), (1, 1), (13, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resize_agrees_with_torch(size, mode, align_corners):
    op = Resize(mode, size=size, coordinates="align_corners" if align_corners else "half_pixel")
    expected = F.interpolate(
        tensor(X), size, mode={"linear": "bilinear", "cubic": "bicubic"}[mode], align_corners=align_corners
    )
    assert_close(evaluate(op, [X]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_agrees_with_torch(size):
    floor = Resize("nearest", size=size, coordinates="asymmetric", rounding="floor")
    assert_close(evaluate(floor, [X]), F.interpolate(tensor(X), size, mode="nearest"))
    exact = Resize("nearest", size=size, coordinates="half_pixel", rounding="round_prefer_ceil")
    assert_close(evaluate(exact, [X]), F.interpolate(tensor(X), size, mode="nearest-exact"))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scale", [(2.0, 2.0), (0.5, 0.75), (1.5, 2.5), (1.0, 3.0)])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_agrees_with_onnx(coordinates, scale, mode):
    actual = evaluate(Resize(mode, scale=scale, coordinates=coordinates), [X])
    expected = run_onnx(
        "Resize", X, None, np.array([1, 1, *scale], np.float32), mode=mode, coordinate_transformation_mode=coordinates
    )
    assert_close(actual, expected, 1e-5)  # ONNX's evaluator keeps coordinates in float32


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("scale", [(2.0, 2.0), (0.5, 0.75), (1.5, 2.5)])
def test_nearest_agrees_with_onnx(coordinates, rounding, scale):
    actual = evaluate(Resize("nearest", scale=scale, coordinates=coordinates, rounding=rounding), [X])
    expected = run_onnx(
        "Resize",
        X,
        None,
        np.array([1, 1, *scale], np.float32),
        mode="nearest",
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )
    assert_close(actual, expected)


def test_whole_positions_are_exact():
    """Where i * size / count is whole, i / (count / size) often is not quite, and floor would take the wrong row."""
    for count, size in itertools.product(range(1, 40), repeat=2):
        x = np.arange(size, dtype=np.float64).reshape(1, 1, size, 1)
        op = Resize("nearest", size=(count, 1), coordinates="asymmetric", rounding="floor")
        expected = [i * size // count for i in range(count)]
        np.testing.assert_array_equal(evaluate(op, [x]).ravel(), expected)


def test_one_pytorch_half_pixel_is_the_first():
    """ONNX: the position is 0 where the resized axis has the length 1."""
    op = Resize("linear", size=(1, 6), coordinates="pytorch_half_pixel")
    assert_close(evaluate(op, [X]), X[:, :, :1])


def test_nearest_copies_infinity_without_spreading_it():
    x = np.array([1.0, np.inf, 2.0]).reshape(1, 1, 1, 3)
    op = Resize("nearest", size=(1, 6), coordinates="asymmetric", rounding="floor")
    np.testing.assert_array_equal(evaluate(op, [x]).ravel(), [1, 1, np.inf, np.inf, 2, 2])
