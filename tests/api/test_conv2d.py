"""`waterline.conv2d` against PyTorch, on the samples of arguments that PyTorch tests its own with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing._internal.common_methods_invocations import error_inputs_conv2d, sample_inputs_conv2d

import waterline
from waterline import InvalidArgument

from .networks import image

EPS = float(np.finfo(np.float32).eps)


def describe(sample: Any) -> str:
    shapes = [tuple(tensor.shape) for tensor in (sample.input, *sample.args) if tensor is not None]
    return f"{shapes} {sample.kwargs}".replace(" ", "")


with torch.random.fork_rng():
    torch.manual_seed(0)
    SAMPLES = list(sample_inputs_conv2d(None, "cpu", torch.float32, False))
    MISTAKES = [error.sample_input for error in error_inputs_conv2d(None, "cpu")]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("sample", SAMPLES, ids=describe)
def test_pytorchs_samples(sample: Any) -> None:
    x, (weight, bias), keywords = sample.input.double(), sample.args, sample.kwargs
    conv = torch.nn.functional.conv2d
    truth = conv(x, weight.double(), None if bias is None else bias.double(), **keywords)
    scale = conv(x.abs(), weight.double().abs(), None if bias is None else bias.double().abs(), **keywords)
    bound = (weight[0].numel() + 2) * EPS * scale  # of a sum in float32, in any order
    served = []
    for algorithm in ("auto", *waterline.algorithms()):
        try:
            result = waterline.conv2d(sample.input, *sample.args, **keywords, algorithm=algorithm)
        except waterline.Refused:
            continue
        served.append(algorithm)
        assert type(result) is torch.Tensor
        assert result.shape == truth.shape
        # Winograd's transforms mix the pixels of a tile: its errors are relative to the largest of them.
        allowed = 10 * bound.max() if algorithm in ("auto", "winograd") else bound
        assert bool(((result.double() - truth).abs() <= allowed).all()), algorithm
    assert served[0] == "auto"
    assert len(served) >= 3  # beside naive at least one algorithm more


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("sample", MISTAKES, ids=describe)
def test_pytorchs_mistakes(sample: Any) -> None:
    with pytest.raises(InvalidArgument):
        waterline.conv2d(sample.input, *sample.args, **sample.kwargs)
    if {sample.input.dtype} == {tensor.dtype for tensor in sample.args}:  # wrong in more than its types
        with pytest.raises(InvalidArgument):
            waterline.conv2d(sample.input.float(), *(tensor.float() for tensor in sample.args), **sample.kwargs)


def test_numpy_in_numpy_out() -> None:
    x, weight = image(2, 4, 9, 7), image(6, 4, 3, 3, seed=1)
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), stride=2, padding=1)
    result = waterline.conv2d(x, weight, stride=2, padding=1)
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    mixed = waterline.conv2d(x, torch.from_numpy(weight), stride=np.int64(2), padding=[1, 1])
    assert type(mixed) is np.ndarray
    np.testing.assert_array_equal(mixed, result)


def test_exact_on_small_integers() -> None:
    """Sums of small integers have no rounding: an element read from the wrong place shows, however small it is."""
    random = np.random.default_rng(0)
    x = random.integers(-4, 5, (2, 8, 11, 13)).astype(np.float32)
    weight = random.integers(-4, 5, (8, 8, 3, 5)).astype(np.float32)
    bias = random.integers(-4, 5, 8).astype(np.float32)
    keywords: dict[str, Any] = {"stride": (2, 1), "padding": (1, 3), "dilation": (1, 2)}
    tensors = [torch.from_numpy(array).double() for array in (x, weight, bias)]
    expected = torch.nn.functional.conv2d(*tensors, **keywords).numpy()
    for algorithm in ("auto", "naive", "im2col", "indirect"):
        np.testing.assert_array_equal(waterline.conv2d(x, weight, bias, **keywords, algorithm=algorithm), expected)


def test_other_weights_of_the_same_shape() -> None:
    x = image(1, 3, 6, 6)
    first, second = image(4, 3, 3, 3, seed=1), image(4, 3, 3, 3, seed=2)
    results = [waterline.conv2d(x, weight) for weight in (first, second, first)]
    assert not np.array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    first *= 2  # the caller's array changes after the call
    np.testing.assert_allclose(waterline.conv2d(x, first), 2 * results[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"stride": 0}, "stride"),
        ({"stride": 1.5}, "stride"),
        ({"stride": "1"}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"padding": -1}, "padding"),
        ({"padding": "full"}, "'full'"),
        ({"padding": "same", "stride": 2}, "'same' with stride"),
        ({"padding": 2**31}, "63-bit"),
        ({"dilation": 0}, "dilation"),
        ({"dilation": 100}, "larger than the padded input"),
        ({"groups": 0}, "groups"),
        ({"groups": 2}, "channels"),
        ({"groups": 1.0}, "groups"),
        ({"bias": image(3)}, "bias"),
        ({"bias": image(4, 1)}, "bias"),
        ({"algorithm": "winogard"}, "did you mean 'winograd'"),
        ({"algorithm": None}, "unknown algorithm"),
        ({"num_threads": 0}, "num_threads"),
        ({"x": image(4, 5)}, "x has shape"),
        ({"x": image(1, 4, 5, 5).astype(np.float64)}, "float64"),
        ({"x": image(1, 4, 0, 5)}, "larger than the padded input"),
        ({"weight": image(4, 4, 3)}, "weight has shape"),
        ({"weight": image(4, 4, 0, 3)}, "r=0"),
        ({"weight": image(0, 4, 3, 3)}, "k=0"),
        ({"weight": [[1.0]]}, "list"),
    ],
)
def test_mistakes(changes: dict[str, Any], word: str) -> None:
    arguments = {"x": image(1, 4, 5, 5), "weight": image(4, 4, 3, 3)} | changes
    with pytest.raises(InvalidArgument, match=word):
        waterline.conv2d(**arguments)


def test_an_algorithm_that_does_not_serve_the_layer() -> None:
    with pytest.raises(waterline.Refused, match="direct_gemm: it computes 1x1 filters"):
        waterline.conv2d(image(1, 4, 5, 5), image(4, 4, 3, 3), algorithm="direct_gemm")


def test_batch_zero() -> None:
    assert waterline.conv2d(image(0, 4, 5, 5), image(6, 4, 3, 3)).shape == (0, 6, 3, 3)


def test_algorithms_in_registry_order() -> None:
    names = waterline.algorithms()
    assert len(set(names)) == len(names)
    assert {"direct_gemm", "indirect", "im2col", "depthwise", "grouped", "naive"} <= set(names)
    assert names[-1] == "naive"  # the last resort
