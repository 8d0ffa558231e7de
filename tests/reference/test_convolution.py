import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.errors import InvalidArgument
from waterline.graph.ops import Conv, ConvTranspose, Linear, MatMul
from waterline.reference import conv2d, evaluate
from waterline.spec import Activation, ConvSpec, Epilogue

from .oracles import assert_close, run_onnx, tensor

RELU = Activation("relu")


def whole(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Small whole numbers: float64 sums of their products are exact, so a wrong index cannot hide in a tolerance."""
    return random.integers(-8, 9, shape).astype(np.float64)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    taps = [draw(st.integers(1, 4)) for _ in range(2)]
    dilation = [draw(st.integers(1, 3)) for _ in range(2)]
    pad = [draw(st.integers(-1, 3)) for _ in range(4)]
    least = [max(1, dilation[i] * (taps[i] - 1) + 1 - pad[i] - pad[i + 2], 1 - pad[i] - pad[i + 2]) for i in (0, 1)]
    return ConvSpec(
        n=draw(st.integers(0, 2)),
        c=groups * draw(st.integers(1, 3)),
        h=least[0] + draw(st.integers(0, 5)),
        w=least[1] + draw(st.integers(0, 5)),
        k=groups * draw(st.integers(1, 3)),
        r=taps[0],
        s=taps[1],
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        pad=(pad[0], pad[1], pad[2], pad[3]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )


def torch_conv(x: np.ndarray, weight: np.ndarray, spec: ConvSpec) -> torch.Tensor:
    top, left, bottom, right = spec.pad
    padded = F.pad(tensor(x), (left, right, top, bottom))
    return F.conv2d(padded, tensor(weight), stride=spec.stride, dilation=spec.dilation, groups=spec.groups)


@settings(max_examples=150, deadline=None)
@given(specs(), st.integers(0, 2**32 - 1))
def test_conv2d_is_exact_on_whole_numbers(spec, seed):
    random = np.random.default_rng(seed)
    x = whole(random, spec.n, spec.c, spec.h, spec.w)
    weight = whole(random, spec.k, spec.group_c, spec.r, spec.s)
    actual = conv2d(x, weight, None, spec)
    assert actual.shape == (spec.n, spec.k, spec.p, spec.q)
    np.testing.assert_array_equal(actual, torch_conv(x, weight, spec).numpy())


def test_depthwise_and_grouped():
    random = np.random.default_rng(0)
    for groups, k in ((12, 12), (12, 24), (4, 8)):
        spec = ConvSpec(2, 12, 9, 8, k, 3, 3, (2, 1), (1, 0, 2, 1), (1, 2), groups)
        x, weight = random.normal(size=(2, 12, 9, 8)), random.normal(size=(k, spec.group_c, 3, 3))
        assert_close(conv2d(x, weight, None, spec), torch_conv(x, weight, spec))


def test_upsampled_conv2d_is_a_transposed_convolution():
    """The gradient of a strided convolution: zeros between the inputs, the filter turned, its channels exchanged."""
    random = np.random.default_rng(7)
    x, weight = whole(random, 2, 4, 3, 5), whole(random, 4, 3, 3, 2)
    turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    spec = ConvSpec(2, 4, 3, 5, 3, 3, 2, pad=(2, 1, 2, 1), upsample=(2, 3))
    expected = F.conv_transpose2d(tensor(x), tensor(weight), stride=(2, 3))
    np.testing.assert_array_equal(conv2d(x, turned, None, spec), expected.numpy())


def test_epilogue_order():
    """bias, before, residual, after: with numbers for which every other order gives something else."""
    clip = Activation("clip", (-1.0, 2.0))
    spec = ConvSpec(1, 1, 1, 1, 1, 1, 1, epilogue=Epilogue(True, RELU, True, clip))
    one = np.ones((1, 1, 1, 1))
    assert conv2d(one, 3 * one, np.array([-5.0]), spec, residual=-0.5 * one).item() == -0.5
    assert conv2d(one, 3 * one, np.array([5.0]), spec, residual=-4 * one).item() == 2.0


def test_conv_op_reads_bias_and_residual():
    random = np.random.default_rng(1)
    x, weight, bias = whole(random, 2, 3, 5, 5), whole(random, 4, 3, 3, 3), whole(random, 4)
    residual = whole(random, 2, 4, 5, 5)
    y = F.conv2d(tensor(x), tensor(weight), tensor(bias), padding=1)
    op = Conv(pad=(1, 1, 1, 1), epilogue=Epilogue(bias=True, residual=True, after=RELU))
    assert_close(evaluate(op, [x, weight, bias, residual]), F.relu(y + tensor(residual)))
    op = Conv(pad=(1, 1, 1, 1), epilogue=Epilogue(before=RELU, residual=True))
    y = F.conv2d(tensor(x), tensor(weight), padding=1)
    assert_close(evaluate(op, [x, weight, residual]), F.relu(y) + tensor(residual))


def test_padding_contributes_nothing():
    spec = ConvSpec(1, 1, 2, 2, 1, 3, 3, pad=(1, 1, 1, 1))
    weight = np.ones((1, 1, 3, 3))
    weight[0, 0, 0, 0] = np.inf
    y = conv2d(np.ones((1, 1, 2, 2)), weight, None, spec)
    np.testing.assert_array_equal(y[0, 0], [[4, 4], [4, np.inf]])  # never infinity * 0


def test_nan_reaches_exactly_the_windows_that_see_it():
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 0, 0] = np.nan
    y = conv2d(x, np.zeros((1, 1, 3, 3)), None, ConvSpec(1, 1, 5, 5, 1, 3, 3, pad=(1, 1, 1, 1)))
    expected = np.zeros((5, 5), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(np.isnan(y[0, 0]), expected)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"x": np.ones((1, 2, 4, 5))}, "x of"),
        ({"weight": np.ones((3, 2, 3, 1))}, "weight of"),
        ({"bias": np.ones(2)}, "bias of"),
        ({"residual": np.ones((1, 3, 4, 4))}, "residual of"),
        ({"residual": None}, "got None"),
    ],
)
def test_conv2d_refuses_wrong_shapes(arrays, word):
    spec = ConvSpec(1, 2, 4, 4, 3, 3, 3, epilogue=Epilogue(bias=True, residual=True))
    right = {
        "x": np.ones((1, 2, 4, 4)),
        "weight": np.ones((3, 2, 3, 3)),
        "bias": np.ones(3),
        "residual": np.ones((1, 3, 2, 2)),
    }
    with pytest.raises(InvalidArgument, match=word):
        conv2d(**(right | arrays), spec=spec)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("pad", [(0, 0), (1, 2)])
def test_conv_transpose(groups, stride, dilation, pad):
    random = np.random.default_rng(2)
    x, weight, bias = whole(random, 2, 4, 3, 4), whole(random, 4, 3, 3, 4), whole(random, 3 * groups)
    output_pad = (stride[0] - 1, stride[1] - 1)
    op = ConvTranspose(stride, (*pad, *pad), output_pad, dilation, groups, bias=True)
    expected = F.conv_transpose2d(tensor(x), tensor(weight), tensor(bias), stride, pad, output_pad, groups, dilation)
    assert_close(evaluate(op, [x, weight, bias]), expected)


def test_conv_transpose_with_asymmetric_pads():
    random = np.random.default_rng(3)
    x, weight = whole(random, 1, 2, 4, 3), whole(random, 2, 3, 3, 3)
    op = ConvTranspose((2, 2), (0, 1, 2, 0))
    whole_output = F.conv_transpose2d(tensor(x), tensor(weight), stride=2)
    assert_close(evaluate(op, [x, weight]), whole_output[:, :, 0:-2, 1:])


def test_conv_transpose_agrees_with_onnx():
    random = np.random.default_rng(4)
    x, weight = whole(random, 1, 4, 3, 3), whole(random, 4, 2, 3, 3)
    expected = run_onnx("ConvTranspose", x, weight, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    assert_close(evaluate(ConvTranspose((2, 2), (1, 1, 1, 1), (1, 1)), [x, weight]), expected)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 3, 4), (0,)])
def test_linear(lead):
    random = np.random.default_rng(5)
    x, weight, bias, residual = whole(random, *lead, 5), whole(random, 7, 5), whole(random, 7), whole(random, *lead, 7)
    expected = F.linear(tensor(x), tensor(weight), tensor(bias))
    assert_close(evaluate(Linear(Epilogue(bias=True)), [x, weight, bias]), expected)
    full = Linear(Epilogue(bias=True, before=RELU, residual=True, after=Activation("clip", (-3.0, 3.0))))
    assert_close(evaluate(full, [x, weight, bias, residual]), (F.relu(expected) + tensor(residual)).clamp(-3, 3))


@pytest.mark.parametrize(
    ("a", "b"), [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 1, 2, 3), (4, 3, 2)), ((2, 0), (0, 3))]
)
def test_matmul(a, b):
    random = np.random.default_rng(6)
    x, y = whole(random, *a), whole(random, *b)
    actual = evaluate(MatMul(), [x, y])
    assert actual.shape == MatMul().infer([a, b])[0]
    assert_close(np.asarray(actual), torch.matmul(tensor(x), tensor(y)))
