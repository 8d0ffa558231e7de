import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from waterline.graph.ops import BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm, Softmax
from waterline.reference import evaluate

from .oracles import assert_close, run_onnx, tensor

RANDOM = np.random.default_rng(0)
SHAPES = [(2, 6), (2, 6, 5), (2, 6, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(shape):
    x = RANDOM.normal(size=shape) * 3 + 1
    scale, bias, mean = RANDOM.normal(size=(3, 6))
    variance = RANDOM.uniform(0.1, 3, 6)
    expected = F.batch_norm(tensor(x), *map(tensor, (mean, variance, scale, bias)), eps=1e-3)
    assert_close(evaluate(BatchNorm(1e-3), [x, scale, bias, mean, variance]), expected)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_layer_norm(axis):
    x = RANDOM.normal(size=(2, 3, 4, 5)) + 10
    scale, bias = RANDOM.normal(size=(2, *x.shape[axis:]))
    parameters = [tensor(scale), tensor(bias)]
    assert_close(evaluate(LayerNorm(axis), [x, scale, bias]), F.layer_norm(tensor(x), x.shape[axis:], *parameters))
    without = F.layer_norm(tensor(x), x.shape[axis:], parameters[0], eps=1e-2)
    assert_close(evaluate(LayerNorm(axis, 1e-2, bias=False), [x, scale]), without)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(shape, groups):
    x = RANDOM.normal(size=shape)
    scale, bias = RANDOM.normal(size=(2, 6))
    expected = F.group_norm(tensor(x), groups, tensor(scale), tensor(bias), 1e-4)
    assert_close(evaluate(GroupNorm(groups, 1e-4), [x, scale, bias]), expected)


def test_group_norm_of_single_channels_is_instance_norm():
    x, scale, bias = RANDOM.normal(size=(2, 4, 5, 5)), RANDOM.normal(size=4), RANDOM.normal(size=4)
    expected = F.instance_norm(tensor(x), weight=tensor(scale), bias=tensor(bias))
    assert_close(evaluate(GroupNorm(4), [x, scale, bias]), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 30])
def test_local_response_norm(size):
    x = RANDOM.normal(size=(7, 7, 3, 3)) * 10  # ONNX's evaluator takes the batch for the number of channels
    op = LocalResponseNorm(size, 0.25, 0.625, 1.5)
    actual = evaluate(op, [x])
    assert_close(actual, run_onnx("LRN", x, size=size, alpha=0.25, beta=0.625, bias=1.5), 1e-6)
    if size % 2:  # PyTorch puts the larger half of an even window on the other side
        assert_close(actual, F.local_response_norm(tensor(x), size, 0.25, 0.625, 1.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis):
    x = RANDOM.normal(size=(3, 4, 5)) * 300
    x[0, 0, 0], x[1, 1, 1] = np.nan, np.inf
    assert_close(evaluate(Softmax(axis), [x]), torch.softmax(tensor(x), axis))
    assert_close(evaluate(Softmax(axis, log=True), [x]), torch.log_softmax(tensor(x), axis))
