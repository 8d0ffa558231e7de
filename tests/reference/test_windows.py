import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from waterline.errors import InvalidModel
from waterline.graph.ops import AdaptivePool, Pool, Reduce
from waterline.reference import evaluate

from .oracles import assert_close, run_onnx, tensor


@st.composite
def pools(draw: st.DrawFn, kind: str) -> tuple[Pool, np.ndarray]:
    """Pooling that PyTorch has too: pads are symmetric and at most half the window, only max is dilated."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pad = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2))) if kind == "max" else (1, 1)
    op = Pool(
        kind,
        kernel,
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        (*pad, *pad),
        dilation,
        draw(st.booleans()),
        kind == "average" and draw(st.booleans()),
    )
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    try:
        op.infer([shape])
    except InvalidModel:
        assume(False)
    return op, np.random.default_rng(draw(st.integers(0, 1000))).normal(size=shape)


@settings(max_examples=150, deadline=None)
@given(pools("max"))
def test_max_pool(case):
    op, x = case
    x[0, 0, 0, 0] = np.nan
    expected = F.max_pool2d(tensor(x), op.kernel, op.stride, op.pad[:2], op.dilation, op.ceil_mode)
    assert_close(evaluate(op, [x]), expected)


@settings(max_examples=150, deadline=None)
@given(pools("average"))
def test_average_pool(case):
    op, x = case
    expected = F.avg_pool2d(tensor(x), op.kernel, op.stride, op.pad[:2], op.ceil_mode, op.count_include_pad)
    assert_close(evaluate(op, [x]), expected)


@pytest.mark.parametrize("pad", [(0, 0, 1, 1), (1, 0, 0, 2), (0, 1, 2, 0)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_asymmetric_pads(pad, stride):
    x = np.random.default_rng(1).normal(size=(2, 3, 7, 8))
    top, left, bottom, right = pad
    padded = F.pad(tensor(x), (left, right, top, bottom), value=-torch.inf)
    assert_close(evaluate(Pool("max", (3, 3), stride, pad), [x]), F.max_pool2d(padded, 3, stride))
    for include in (False, True):
        actual = evaluate(Pool("average", (3, 3), stride, pad, count_include_pad=include), [x])
        attributes = {"kernel_shape": [3, 3], "strides": stride, "pads": pad, "count_include_pad": int(include)}
        assert_close(actual, run_onnx("AveragePool", x, **attributes))


def test_average_of_a_window_that_hangs_over_the_padded_end():
    """6 wide, padded to 8, windows of 3 every 3: the last one has two columns of the padded image, one of them real."""
    x = np.ones((1, 1, 3, 6))
    op = Pool("average", (3, 3), (3, 3), (0, 1, 0, 1), ceil_mode=True, count_include_pad=True)
    np.testing.assert_allclose(evaluate(op, [x])[0, 0], [[2 / 3, 1, 1 / 2]])


@pytest.mark.parametrize("norm", [1, 2, 3])
def test_lp_pool(norm):
    x = np.random.default_rng(2).normal(size=(1, 2, 7, 7))
    op = Pool("lp", (3, 2), (2, 2), (1, 0, 1, 1), norm=norm)
    padded = F.pad(tensor(np.abs(x)), (0, 1, 1, 1))
    assert_close(evaluate(op, [x]), F.lp_pool2d(padded, norm, (3, 2), (2, 2)))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 7), (9, 11)])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_adaptive_pool(size, kind):
    x = np.random.default_rng(3).normal(size=(2, 3, 7, 8))
    x[1, 1, 3, 3] = np.nan
    oracle = F.adaptive_max_pool2d if kind == "max" else F.adaptive_avg_pool2d
    assert_close(evaluate(AdaptivePool(kind, size), [x]), oracle(tensor(x), size))


@pytest.mark.parametrize("axes", [(1,), (2, 3), (0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_reduce(axes, keepdims):
    x = np.random.default_rng(4).normal(size=(2, 3, 4, 5))
    oracles = {
        "mean": torch.mean,
        "sum": torch.sum,
        "max": torch.amax,
        "min": torch.amin,
        "l2": lambda t, axes, keepdim: torch.linalg.vector_norm(t, 2, axes, keepdim=keepdim),
    }
    for kind, oracle in oracles.items():
        actual = evaluate(Reduce(kind, axes, keepdims), [x])
        assert_close(np.asarray(actual), oracle(tensor(x), axes, keepdim=keepdims))
