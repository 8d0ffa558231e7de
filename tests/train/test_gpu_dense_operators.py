"""Dense convolution as operators of PyTorch: values, gradients, registration, autocast and torch.compile, in Triton's
interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from waterline.errors import InvalidArgument, Refused
from waterline.models.convfirst import ConvFirst, ConvFirstConfig
from waterline.train.gpu_operators import Conv2d, GroupedConv2d, conv2d, refuse, use_kernels

LAYERS = {
    "3x3": (8, 16, (3, 3), {"padding": 1}),
    "stride": (8, 16, (3, 3), {"padding": 1, "stride": 2}),
    "stem": (3, 8, (7, 7), {"padding": 3, "stride": 2}),
    "1x1": (16, 8, (1, 1), {}),
    "1x1, stride": (7, 5, (1, 1), {"stride": 2}),
    "uneven": (5, 9, (3, 2), {"padding": (2, 0), "stride": (3, 2), "dilation": (1, 2)}),
}


def drawn(name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, dict]:
    c, k, size, layer = LAYERS[name]
    torch.manual_seed(5)
    x = torch.randn(2, c, 6, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(k, c, *size, dtype=dtype, requires_grad=True)
    return x, weight, layer


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_conv2d(name: str):
    x, weight, layer = drawn(name)
    y = conv2d(x, weight, **layer)
    dy = torch.randn_like(y)
    found = (y, *torch.autograd.grad(y, (x, weight), dy))
    x64, weight64 = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    y64 = nn.functional.conv2d(x64, weight64, **layer)
    expected = (y64, *torch.autograd.grad(y64, (x64, weight64), dy.double()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_the_layout_of_tensors_does_not_matter():
    """Channels-last inputs and weights, as of a model in that format, and gradients that are not dense."""
    x, weight, layer = drawn("3x3")
    dy = torch.randn(16, 1, 1, 1).expand(16, 2, 6, 5).transpose(0, 1)
    last = [each.detach().to(memory_format=torch.channels_last).requires_grad_() for each in (x, weight)]
    found = [torch.autograd.grad(conv2d(*each, **layer), each, dy) for each in ((x, weight), last)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_only_the_gradients_that_are_wanted():
    x, weight, layer = drawn("3x3")
    (dw,) = torch.autograd.grad(conv2d(x.detach(), weight, **layer).sum(), (weight,))
    assert dw.shape == weight.shape
    (dx,) = torch.autograd.grad(conv2d(x, weight.detach(), **layer).sum(), (x,))
    assert dx.shape == x.shape


def test_an_empty_batch():
    _, weight, layer = drawn("stride")
    x = torch.empty(0, 8, 6, 5, requires_grad=True)
    y = conv2d(x, weight, **layer)
    assert y.shape == (0, 16, 3, 3)
    dx, dw = torch.autograd.grad(y.sum(), (x, weight))
    assert dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_registration_is_sound(dtype: torch.dtype):
    """Schema, fake tensors, autograd and ahead-of-time dispatch, as PyTorch itself checks them."""
    x, weight, _ = drawn("stride", dtype)
    args = (x, weight, [2, 2], [1, 1], [1, 1], 1)
    torch.library.opcheck(torch.ops.waterline.conv2d.default, args, atol=2e-2, rtol=2e-2)


def test_it_is_one_node_for_torch_compile():
    x, weight, layer = drawn("3x3")

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return conv2d(x, weight, **layer).relu()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), function(x, weight))
    found, expected = (torch.autograd.grad(each(x, weight).sum(), (x, weight)) for each in (compiled, function))
    torch.testing.assert_close(found, expected)


def test_autocast_decides_the_type():
    """Of the products, of the sum with a bias, and of the gradients on their way."""
    x, weight, layer = drawn("3x3")
    module = Conv2d(8, 16, 3, **layer)
    with torch.no_grad():
        module.weight.copy_(weight)
    with torch.autocast("cpu", dtype=torch.float16):
        y = module(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), module(x), rtol=2e-2, atol=2e-2)
    y.float().sum().backward()
    assert module.weight.grad.dtype == torch.float32
    torch.testing.assert_close(module.bias.grad, torch.full((16,), 60.0))


def test_results_are_channels_last_and_the_same_each_time():
    x, weight, layer = drawn("stride")
    y = conv2d(x, weight, **layer)
    assert y.is_contiguous(memory_format=torch.channels_last)
    dy = torch.randn_like(y)
    found = [(*torch.autograd.grad(conv2d(x, weight, **layer), (x, weight), dy),) for _ in range(2)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_bias_is_added():
    torch.manual_seed(3)
    module, x = nn.Conv2d(8, 16, 3, padding=1), torch.randn(1, 8, 4, 4)
    expected = module(x)
    assert use_kernels(module) == []
    assert use_kernels(module, dense=True) == [""]
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def test_convfirst_trains_with_them():
    """One step of ConvFirst with all of its convolutions as kernels and one without: the same loss and gradients."""
    torch.manual_seed(2)
    config = ConvFirstConfig((1, 1), (16, 32))
    model, other = ConvFirst(config, num_classes=4), ConvFirst(config, num_classes=4)
    other.load_state_dict(model.state_dict())
    names = use_kernels(model, dense=True)
    convolutions = [name for name, each in other.named_modules() if isinstance(each, nn.Conv2d)]
    assert names == convolutions
    assert sum(isinstance(model.get_submodule(name), GroupedConv2d) for name in names) == 2
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 3])
    for each in (model, other):
        nn.functional.cross_entropy(each(x), labels).backward()
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_what_stays_pytorchs():
    assert "same" in refuse(nn.Conv2d(8, 8, 3, padding="same")).reason
    assert "circular" in refuse(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")).reason
    assert refuse(nn.Conv2d(3, 8, 65, dilation=2)) is None
    assert use_kernels(nn.Sequential(nn.Conv2d(12, 12, 3, groups=2), nn.Conv1d(8, 8, 3)), dense=True) == []


def test_mistakes():
    x, weight, _ = drawn("3x3")
    with pytest.raises(InvalidArgument, match="8 channels in each of 1 groups, the input 6"):
        conv2d(x[:, :6], weight)
    with pytest.raises(InvalidArgument, match="float64"):
        conv2d(x.double(), weight.double())
    with pytest.raises(InvalidArgument, match=r"float32, the other torch\.float16"):
        conv2d(x, weight.half())
    with pytest.raises(InvalidArgument, match="3 axes"):
        conv2d(x[0], weight)
    with pytest.raises(InvalidArgument, match="'same'"):
        conv2d(x, weight, padding="same")
    with pytest.raises(Refused, match="2 groups"):
        torch.ops.waterline.conv2d(x, weight[:, :4].contiguous(), [1, 1], [1, 1], [1, 1], 2)
    with pytest.raises(Refused, match="reflect"):
        Conv2d(8, 16, 3, padding=1, padding_mode="reflect")(x)
