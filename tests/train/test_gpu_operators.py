"""Grouped convolution as operators of PyTorch: values, gradients, registration, autocast and torch.compile, in Triton's
interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from waterline.errors import InvalidArgument, Refused
from waterline.models.convfirst import ConvFirst, ConvFirstConfig
from waterline.train.gpu_operators import GroupedConv2d, grouped_conv2d, use_kernels

LAYERS = {
    "3x3": (16, 16, 3, {"padding": 1, "groups": 2}),
    "stride": (16, 16, 3, {"padding": 1, "stride": 2, "groups": 2}),
    "5x5, other outputs": (8, 16, 5, {"padding": 2, "groups": 1 + 1}),
}


def drawn(name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, dict]:
    c, k, size, layer = LAYERS[name]
    torch.manual_seed(5)
    x = torch.randn(2, c, 6, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(k, c // layer["groups"], size, size, dtype=dtype, requires_grad=True)
    return x, weight, layer


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_conv2d(name: str):
    x, weight, layer = drawn(name)
    y = grouped_conv2d(x, weight, **layer)
    dy = torch.randn_like(y)
    found = (y, *torch.autograd.grad(y, (x, weight), dy))
    x64, weight64 = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    y64 = nn.functional.conv2d(x64, weight64, **layer)
    expected = (y64, *torch.autograd.grad(y64, (x64, weight64), dy.double()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_only_the_gradients_that_are_wanted():
    x, weight, layer = drawn("3x3")
    (dw,) = torch.autograd.grad(grouped_conv2d(x.detach(), weight, **layer).sum(), (weight,))
    assert dw.shape == weight.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_registration_is_sound(dtype: torch.dtype):
    """Schema, fake tensors, autograd and ahead-of-time dispatch, as PyTorch itself checks them."""
    x, weight, _ = drawn("stride", dtype)
    args = (x, weight, [2, 2], [1, 1], [1, 1], 2)
    torch.library.opcheck(torch.ops.waterline.grouped_conv2d.default, args, atol=2e-2, rtol=2e-2)


def test_it_is_one_node_for_torch_compile():
    x, weight, layer = drawn("3x3")

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return grouped_conv2d(x, weight, **layer).relu()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), function(x, weight))
    found, expected = (torch.autograd.grad(each(x, weight).sum(), (x, weight)) for each in (compiled, function))
    torch.testing.assert_close(found, expected)


def test_autocast_decides_the_type():
    x, weight, layer = drawn("3x3")
    with torch.autocast("cpu", dtype=torch.float16):
        y = grouped_conv2d(x, weight, **layer)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), grouped_conv2d(x, weight, **layer), rtol=2e-2, atol=2e-2)


def test_results_are_channels_last():
    x, weight, layer = drawn("3x3")
    assert grouped_conv2d(x, weight, **layer).is_contiguous(memory_format=torch.channels_last)


def test_convfirst_trains_with_them():
    """One step of ConvFirst with the kernels and one without: the same loss, the same gradients."""
    torch.manual_seed(2)
    model = ConvFirst(ConvFirstConfig((1, 1), (16, 32)), num_classes=4)
    other = ConvFirst(ConvFirstConfig((1, 1), (16, 32)), num_classes=4)
    other.load_state_dict(model.state_dict())
    names = use_kernels(model)
    assert len(names) == 2
    assert all(isinstance(model.get_submodule(name), GroupedConv2d) for name in names)
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 3])
    for each in (model, other):
        nn.functional.cross_entropy(each(x), labels).backward()
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_mistakes():
    x, weight, _ = drawn("3x3")
    with pytest.raises(InvalidArgument, match="8 channels in each of 4 groups"):
        grouped_conv2d(x, weight, groups=4)
    with pytest.raises(InvalidArgument, match="float64"):
        grouped_conv2d(x.double(), weight.double(), groups=2)
    with pytest.raises(Refused, match="powers of two"):
        grouped_conv2d(torch.randn(1, 6, 4, 4), torch.randn(6, 3, 3, 3), groups=2)
