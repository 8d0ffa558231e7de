"""Operators on a GPU, in Triton's interpreter, against the reference, and what Triton compiles them to.

Run as a program, with a capability and a precision, it compiles `LARGE` ahead of time and prints what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from waterline.errors import InvalidArgument
from waterline.graph.ops import AdaptivePool, Binary, LayerNorm, Op, Pool, Reduce, Softmax, Unary
from waterline.operators import gpu
from waterline.reference import evaluate
from waterline.spec import ACTIVATIONS, Activation

TYPES = {"f16": torch.float16, "f32": torch.float32}
STORE_EPS = {"f16": 2.0**-11, "f32": 2.0**-24}
ARITHMETIC_EPS = 2.0**-20  # of a result in f32: activations and sums of a few hundred numbers
PARAMS = {"leaky_relu": (0.1,), "clip": (-0.5, 1.0), "hard_sigmoid": (0.2, 0.5)}


def to_storage(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)


def check(
    op: Op,
    *shapes: tuple[int, ...],
    precision: str = "f16",
    values: Sequence[np.ndarray] | None = None,
    is_channels_last: bool = True,
) -> None:
    """Runs on memory that begins as NaN (or 99 where the result has NaN).

    Args:
        is_channels_last: whether four axes are (N, C, H, W), which lie in NHWC order.
    """
    random = np.random.default_rng(zlib.crc32(repr((op, shapes)).encode()))
    arrays = values or [random.standard_normal(shape) for shape in shapes]
    types = [torch.float32 if isinstance(op, LayerNorm) and i else TYPES[precision] for i in range(len(arrays))]
    store = to_storage if is_channels_last else np.ascontiguousarray
    tensors = {str(i): torch.from_numpy(store(a)).to(t) for i, (a, t) in enumerate(zip(arrays, types, strict=True))}
    exact = [torch.from_numpy(np.asarray(a)).to(t).double().numpy() for a, t in zip(arrays, types, strict=True)]
    with np.errstate(all="ignore"):
        expected = store(evaluate(op, exact))
    tensors["y"] = torch.full(
        expected.shape, 99.0 if np.isnan(expected).any() else float("nan"), dtype=TYPES[precision]
    )
    for launch in gpu.launches(op, shapes, precision):
        launch.run(tensors)
    actual = tensors["y"].double().numpy()
    magnitude = max(1.0, float(np.nanmax(np.abs(expected[np.isfinite(expected)]), initial=0.0)))
    np.testing.assert_allclose(
        actual, expected, rtol=2 * STORE_EPS[precision], atol=ARITHMETIC_EPS * magnitude + 2.0**-24
    )


# ---- element by element ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", sorted(gpu.ACTIVATIONS))
def test_activations(kind: str):
    check(Unary(Activation(kind, PARAMS.get(kind, ()))), (2, 5, 3, 7), precision="f32")


@pytest.mark.parametrize("elems", [1, 2047, 2048, 2049, 3000])
def test_sizes_around_blocks(elems: int):
    check(Unary(Activation("relu")), (2, elems))
    check(Binary("add"), (elems,), (elems,))


@pytest.mark.parametrize("kind", sorted(gpu.ARITHMETIC))
@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_arithmetic(kind: str, precision: str):
    check(Binary(kind, Activation("relu")), (2, 5, 3, 4), (2, 5, 3, 4), precision=precision)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 5, 3, 4), (2, 5, 1, 1)),
        ((2, 5, 1, 1), (2, 5, 3, 4)),
        ((2, 5, 3, 4), (1, 5, 1, 1)),
        ((2, 5, 3, 4), (5, 1, 1)),
        ((2, 5, 3, 4), (2, 1, 3, 4)),
        ((2, 5, 3, 4), (3, 4)),
        ((2, 5, 3, 4), ()),
        ((1, 5, 3, 4), (2, 1, 1, 1)),
        ((2, 70, 9, 9), (2, 70, 1, 1)),
        ((1, 96, 9, 9), (1, 96, 1, 1)),
        ((3, 8), (8,)),
        ((3, 8), (3, 1)),
        ((2, 3, 4), (4,)),
        ((5, 1, 1), (2, 1, 3, 4)),
    ],
    ids=str,
)
def test_broadcasting(a: tuple[int, ...], b: tuple[int, ...]):
    check(Binary("mul"), a, b)


def test_kernels_do_not_depend_on_the_batch():
    ops = [(Binary("mul"), ((6, 8, 8), (6, 1, 1))), (Pool("max", (3, 3), (2, 2)), ((6, 8, 8),))]
    for op, shapes in ops:
        first, second = (gpu.launches(op, [(n, *shape) for shape in shapes], "f16")[0] for n in (1, 5))
        assert first.constants == second.constants
        assert 5 * first.grid[0] == second.grid[0]


# ---- windows --------------------------------------------------------------------------------------------------------
POOLS = [
    {"kernel": (2, 2), "stride": (2, 2)},
    {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1, 1, 1)},
    {"kernel": (3, 2), "stride": (2, 1), "pad": (0, 1, 2, 0)},
    {"kernel": (3, 3), "stride": (2, 2), "ceil_mode": True},
    {"kernel": (3, 3), "stride": (2, 3), "pad": (1, 1, 1, 1), "ceil_mode": True},
    {"kernel": (2, 3), "dilation": (2, 3), "pad": (1, 2, 1, 2)},
    {"kernel": (5, 5), "stride": (1, 1), "pad": (2, 2, 2, 2)},
]


@pytest.mark.parametrize("parts", POOLS, ids=str)
@pytest.mark.parametrize("kind", ["max", "average", "average with padding"])
def test_pooling(parts: dict, kind: str):
    op = Pool(kind.split()[0], **parts, count_include_pad="padding" in kind)
    check(op, (2, 5, 8, 9))


@pytest.mark.parametrize("c", [1, 63, 64, 65])
def test_pooling_around_tiles(c: int):
    check(Pool("max", (2, 2)), (1, c, 7, 8))


def test_the_largest_of_a_window_with_nan_is_nan():
    x = np.arange(2 * 3 * 6 * 6, dtype=np.float64).reshape(2, 3, 6, 6)
    x[0, 1, 2, 3], x[1, 2, 5, 5], x[1, 0] = np.nan, np.nan, -np.inf
    check(Pool("max", (3, 3), (1, 1), (1, 1, 1, 1)), x.shape, values=[x])
    check(AdaptivePool("max"), x.shape, values=[x])
    check(Binary("max"), x.shape, x.shape, values=[x, np.ones_like(x)])


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 3), (2, 64, 4, 8), (1, 65, 3, 11), (1, 3, 13, 51)])
def test_whole_images(kind: str, shape: tuple[int, ...]):
    check(AdaptivePool(kind), shape)


def test_pooling_to_a_size():
    check(AdaptivePool("average", (3, 2)), (2, 5, 6, 8))


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_reductions_over_images(kind: str):
    check(Reduce(kind, (2, 3)), (2, 5, 3, 4))
    check(Reduce(kind, (3, 2), keepdims=False), (2, 5, 3, 4))


# ---- normalisation and layouts --------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [1, 3, 64, 96, 129])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_layer_norm(length: int, has_bias: bool, precision: str):
    shapes = [(2, 3, 3, length), (length,), (length,)][: 2 + has_bias]
    check(LayerNorm(3, 1e-5, has_bias), *shapes, precision=precision, is_channels_last=False)


def test_layer_norm_over_several_axes():
    check(LayerNorm(1, 1e-6), (3, 5, 7), (5, 7), (5, 7), precision="f32")


def test_layer_norm_far_from_zero():
    """The variance around the mean keeps digits that a difference of squares loses."""
    x = 1000 + np.random.default_rng(2).integers(-3, 4, (4, 64)).astype(np.float64)
    check(LayerNorm(1), (4, 64), (64,), (64,), precision="f32", values=[x, np.ones(64), np.zeros(64)])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (2, 65, 8, 8), (1, 64, 9, 7), (1, 3, 33, 33)])
def test_layouts(shape: tuple[int, ...]):
    x = torch.randn(shape)
    between, back = torch.full((x.numel(),), float("nan")), torch.full(shape, float("nan"))
    for launch in gpu.to_nhwc(shape):
        launch.run({"0": x, "y": between})
    np.testing.assert_array_equal(between.numpy(), to_storage(x.numpy()).ravel())
    for launch in gpu.to_nchw(shape):
        launch.run({"0": between, "y": back})
    np.testing.assert_array_equal(back.numpy(), x.numpy())


# ---- what they do not serve -----------------------------------------------------------------------------------------
def test_nothing_to_compute():
    assert gpu.launches(Unary(Activation("relu")), [(0, 3, 4, 4)], "f16") == ()
    assert gpu.to_nhwc((2, 3, 0, 4)) == ()


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Unary(Activation(next(kind for kind in ACTIVATIONS if kind not in gpu.ACTIVATIONS), (1.0,))), [(2, 3)]),
        (Binary("pow"), [(2, 3), (2, 3)]),
        (Binary("add"), [(2, 5, 3, 4), (2, 5, 3, 1)]),
        (Pool("lp", (2, 2)), [(1, 3, 4, 4)]),
        (AdaptivePool("average", (3, 3)), [(1, 3, 4, 4)]),
        (Reduce("mean", (1,)), [(1, 3, 4, 4)]),
        (LayerNorm(1, bias=False), [(2, 20000), (20000,)]),
        (Softmax(1), [(2, 5)]),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else "",
)
def test_others_are_refused(op: Op, shapes: list[tuple[int, ...]]):
    with pytest.raises(InvalidArgument):
        gpu.launches(op, shapes, "f16")


# ---- compiled ahead of time -----------------------------------------------------------------------------------------
LARGE: list[tuple[Op, list[tuple[int, ...]]]] = [
    (Unary(Activation("gelu")), [(64, 96, 56, 56)]),
    (Binary("add", Activation("relu")), [(64, 96, 56, 56)] * 2),
    (Binary("mul"), [(64, 96, 56, 56), (64, 96, 1, 1)]),
    (Pool("max", (3, 3), (2, 2), (1, 1, 1, 1)), [(64, 64, 112, 112)]),
    (Pool("average", (7, 7), (1, 1), (3, 3, 3, 3)), [(64, 64, 56, 56)]),
    (AdaptivePool("average"), [(64, 960, 7, 7)]),
    (AdaptivePool("max"), [(64, 960, 7, 7)]),
    (LayerNorm(3), [(64, 56, 56, 96), (96,), (96,)]),
    (LayerNorm(1), [(64, 16384), (16384,), (16384,)]),
]


def compile_ahead(capability: int, precision: str) -> list[dict[str, object]]:
    every = [launch for op, shapes in LARGE for launch in gpu.launches(op, shapes, precision)]
    every += [*gpu.to_nhwc((64, 64, 56, 56)), *gpu.to_nhwc((64, 3, 224, 224)), *gpu.to_nchw((64, 64, 56, 56))]
    found: list[dict[str, object]] = []
    for launch in every:
        made = launch.compile(precision, capability)
        wide = ".v4.b32" in made.ptx
        found.append({"kernel": str(launch), "spilled_bytes": made.usage().spilled_bytes, "has_wide_access": wide})
    return found


@pytest.mark.parametrize(("capability", "precision"), [(90, "bf16"), (80, "f32")])
def test_kernels_compile_well(capability: int, precision: str):
    command = [sys.executable, __file__, str(capability), precision]
    env = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) >= len(LARGE)
    for made in found:
        assert made["spilled_bytes"] == 0, made
        assert made["has_wide_access"], made


if __name__ == "__main__":
    print(json.dumps(compile_ahead(int(sys.argv[1]), sys.argv[2])))
