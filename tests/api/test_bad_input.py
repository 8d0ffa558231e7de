"""What callers do by mistake, and what data brings: a clear error or the right answer, never anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import waterline
from waterline import CompiledNetwork, InvalidArgument

from .networks import SHAPE, graph, image, model_proto, module


@pytest.fixture(scope="module")
def layer() -> CompiledNetwork:
    return waterline.compile(graph())


# ---- where elements lie -----------------------------------------------------------------------------------------
def test_arrays_that_do_not_lie_in_c_order(layer: CompiledNetwork) -> None:
    x = image()
    expected = layer(x)
    wide = np.zeros((1, 3, 24, 20), np.float32)
    wide[:, :, ::2, ::2] = x
    bytes_ = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = bytes_[1:].view(np.float32).reshape(x.shape)
    unaligned[:] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    arrays = {
        "Fortran order": np.asfortranarray(x),
        "every second element": wide[:, :, ::2, ::2],
        "backwards": x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
        "channels last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "not aligned": unaligned,
        "read-only": frozen,
        "a subclass": x.view(np.recarray),
        "a PyTorch tensor, channels last": torch.from_numpy(x).to(memory_format=torch.channels_last),
        "a PyTorch tensor that wants gradients": torch.from_numpy(x).requires_grad_(),
        "a PyTorch tensor, negated lazily": torch.from_numpy(-x)._neg_view(),
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(layer(array)), expected, err_msg=name)


def test_repeated_elements(layer: CompiledNetwork) -> None:
    x = np.broadcast_to(np.float32(2), SHAPE)
    np.testing.assert_array_equal(layer(x), layer(np.full(SHAPE, 2, np.float32)))


def test_an_odd_address_of_the_same_data(layer: CompiledNetwork) -> None:
    x = image()
    expected = layer(x)
    for shift in range(1, 17):
        memory = np.zeros(x.size + shift, np.float32)
        memory[shift:] = x.ravel()
        np.testing.assert_array_equal(layer(memory[shift:].reshape(x.shape)), expected)


# ---- what elements are ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "complex64", ">f4", "object", "U3"])
def test_wrong_dtypes_of_numpy(layer: CompiledNetwork, dtype: str) -> None:
    with pytest.raises(InvalidArgument, match=r"dtype .*float32") as caught:
        layer(np.zeros(SHAPE).astype(dtype))
    assert "astype" in caught.value.hint


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_wrong_dtypes_of_pytorch(layer: CompiledNetwork, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidArgument, match=f"dtype {str(dtype).removeprefix('torch.')}"):
        layer(torch.zeros(SHAPE).to(dtype))


@pytest.mark.parametrize("value", [None, 3, 1.5, "image.jpg", [[1.0]], {"x": 1}, b"abc"])
def test_what_is_no_array(layer: CompiledNetwork, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="not an array"):
        layer(value)


def test_tensors_that_are_elsewhere_or_not_dense(layer: CompiledNetwork) -> None:
    with pytest.raises(InvalidArgument, match="on meta"):
        layer(torch.empty(SHAPE, device="meta"))
    with pytest.raises(InvalidArgument, match="sparse_coo"):
        layer(torch.zeros(SHAPE).to_sparse())


# ---- shapes -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((3, 12, 10), "axes"),
        ((1, 1, 3, 12, 10), "axes"),
        ((), "axes"),
        ((1, 4, 12, 10), "channels"),
        ((1, 3, 0, 10), "larger than the padded input"),
        ((1, 0, 12, 10), "channels"),
    ],
)
def test_wrong_shapes(layer: CompiledNetwork, shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(InvalidArgument, match=r"shape") as caught:
        layer(np.zeros(shape, np.float32))
    assert word in str(caught.value)
    assert layer(image()).shape == (1, 8, 12, 10)  # and the network works as before


def test_batch_zero(layer: CompiledNetwork) -> None:
    assert layer(image(0, 3, 12, 10)).shape == (0, 8, 12, 10)
    features, means = waterline.compile(model_proto(), image())(image(0, 3, 12, 10))
    assert features.shape == (0, 8, 12, 10)
    assert means.shape == (0, 8, 1, 1)
    scores = waterline.compile(module(), torch.from_numpy(image()))(torch.zeros(0, 3, 12, 10))
    assert scores.shape == (0, 5)


def test_compiled_for_batch_zero() -> None:
    net = waterline.compile(graph((0, 3, 12, 10)))
    assert net(image(0, 3, 12, 10)).shape == (0, 8, 12, 10)
    assert net(image()).shape == (1, 8, 12, 10)


def test_sizes_of_one() -> None:
    net = waterline.compile(graph((1, 1, 1, 1), k=1))
    x = image(1, 1, 1, 1)
    np.testing.assert_allclose(net(x), x * net.graph.constants["weight"][0, 0, 1, 1], rtol=1e-6)


def test_sizes_beyond_63_bits_are_refused() -> None:
    with pytest.raises(waterline.Error, match="63-bit"):
        waterline.compile(graph((1, 3, 2**33, 2**33)))


def test_sizes_beyond_32_bits_are_planned() -> None:
    """14 GB of input and 39 GB of output: whatever counts in 32 bits would be wrong here. Nothing is allocated."""
    net = waterline.compile(graph((1, 3, 60_000, 60_000)))
    (layer,) = [step for step in net.plan.steps if step.spec]
    assert layer.spec is not None
    assert layer.spec.output_bytes == 4 * 8 * 60_000**2
    assert net.plan.flops == 2 * 8 * 27 * 60_000**2
    assert net.plan.arena_bytes > 2**32


def test_strides_beyond_32_bits(layer: CompiledNetwork) -> None:
    net = waterline.compile(graph((1, 3, 60_000, 60_000)))
    np.testing.assert_array_equal(net(image()), layer(image()))


# ---- data -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("algorithm", ["auto", "naive", "im2col", "indirect"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_their_window_and_no_further(algorithm: str, value: float) -> None:
    x, weight = image(1, 16, 14, 14), image(16, 16, 3, 3, seed=1)
    clean = waterline.conv2d(x, weight, padding=1, algorithm=algorithm)
    x[0, 5, 6, 7] = value
    result = waterline.conv2d(x, weight, padding=1, algorithm=algorithm)
    inside = np.zeros(result.shape, bool)
    inside[:, :, 5:8, 6:9] = True
    if algorithm != "auto":  # the planner may take Winograd's, where a tile shares its pixels
        np.testing.assert_array_equal(result[~inside], clean[~inside])
    if np.isnan(value):
        assert np.isnan(result[inside]).all()
    elif algorithm != "auto":
        expected = np.sign(weight[:, 5, ::-1, ::-1]) * value
        np.testing.assert_array_equal(result[0, :, 5:8, 6:9], expected)
    else:
        assert not np.isfinite(result[inside]).any()


def test_padding_does_not_make_nan_of_infinity() -> None:
    """Outside the image nothing is multiplied: 0 times infinity would be NaN."""
    x = np.full((1, 4, 5, 5), np.inf, np.float32)
    weight = np.ones((4, 4, 3, 3), np.float32)
    for algorithm in ("naive", "im2col", "indirect"):
        result = waterline.conv2d(x, weight, padding=1, algorithm=algorithm)
        np.testing.assert_array_equal(result, np.full((1, 4, 5, 5), np.inf))


def test_infinite_weights_meet_the_zeros_of_padding_as_in_pytorch() -> None:
    x, weight = image(1, 2, 4, 4), np.full((2, 2, 3, 3), np.inf, np.float32)
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=1)
    result = waterline.conv2d(x, weight, padding=1, algorithm="naive")
    assert not np.isfinite(result).any()
    assert not np.isfinite(expected.numpy()).any()


# What each function's formula gives for infinity and minus infinity in IEEE's arithmetic (infinity times 0 is NaN).
AT_INFINITY = {
    "relu": (np.inf, 0),
    "hardtanh": (1, -1),
    "sigmoid": (1, 0),
    "tanh": (1, -1),
    "silu": (np.inf, np.nan),
    "gelu": (np.inf, np.nan),
    "hardswish": (np.inf, np.nan),
}


@pytest.mark.parametrize("function", AT_INFINITY)
def test_activations_of_values_that_are_no_numbers(function: str) -> None:
    class Activation(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(torch.nn.functional, function)(x)

    finite = torch.tensor([-0.0, 0.0, 1e-40, -1e-40, 1e37, -1e37, 1.5, -1.5])
    special = torch.tensor([np.inf, -np.inf, np.nan])
    x = torch.cat([special, finite])[None]
    result = waterline.compile(Activation(), x)(x)[0]
    torch.testing.assert_close(result[3:], Activation()(finite), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result[:3], np.float32([*AT_INFINITY[function], np.nan]))


def test_softmax_of_values_that_are_no_numbers() -> None:
    x = torch.tensor([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf] * 3, [1e38, -1e38, 0], [1, 2, 3]])
    result = waterline.compile(torch.nn.Softmax(dim=1), x)(x)
    torch.testing.assert_close(result, torch.softmax(x, 1), rtol=1e-5, atol=1e-7, equal_nan=True)


def test_pooling_of_values_that_are_no_numbers() -> None:
    for pool in (torch.nn.MaxPool2d(2), torch.nn.AvgPool2d(2), torch.nn.AdaptiveAvgPool2d(1)):
        x = torch.from_numpy(image(1, 4, 4, 4))
        x[0, 1, 0, 0], x[0, 2, 3, 3], x[0, 3, 1, 1] = np.nan, np.inf, -np.inf
        result = waterline.compile(pool, x)(x)
        torch.testing.assert_close(result, pool(x), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_network_tells_nan_from_numbers() -> None:
    network, x = module(), torch.from_numpy(image(2, 3, 12, 10))
    x[1, 0, 3, 3] = np.nan
    scores = waterline.compile(network, x)(x)
    assert bool(torch.isfinite(scores[0]).all())  # the other image of the batch is not touched
    assert bool(torch.isnan(scores[1]).all())
