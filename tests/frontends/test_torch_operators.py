"""Every ATen operator with a converter, against PyTorch in float64, at the traced batch and at another one."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from waterline.errors import InvalidModel  # noqa: E402

from .torch_check import Call, check, data  # noqa: E402

MODULES = {
    # ---- convolutions
    "conv": nn.Conv2d(3, 8, 3, 2, 1),
    "conv_rectangular": nn.Conv2d(4, 8, (3, 5), (2, 1), (0, 2), (1, 2), groups=2, bias=False),
    "conv_same": nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)),
    "conv_valid": nn.Conv2d(3, 4, 3, padding="valid"),
    "conv_reflect": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "conv_replicate": nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
    "depthwise": nn.Conv2d(6, 12, 3, padding=1, groups=6),
    "conv_transpose": nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, (1, 0), groups=2, dilation=(2, 1)),
    "conv_transpose_plain": nn.ConvTranspose2d(3, 5, 2, 2, bias=False),
    "conv1d": nn.Conv1d(3, 8, 5, 2, 2, groups=1),
    "conv1d_same": nn.Conv1d(3, 8, 4, padding="same"),
    "conv_transpose1d": nn.ConvTranspose1d(3, 8, 4, 2, 1, 1),
    # ---- normalisation
    "batch_norm": nn.BatchNorm2d(4),
    "batch_norm_plain": nn.BatchNorm2d(4, affine=False),
    "batch_norm1d": nn.BatchNorm1d(4),
    "layer_norm": nn.LayerNorm((5, 6)),
    "layer_norm_plain": nn.LayerNorm(6, elementwise_affine=False),
    "layer_norm_no_bias": nn.LayerNorm(6, bias=False),
    "group_norm": nn.GroupNorm(2, 4),
    "instance_norm": nn.InstanceNorm2d(4, affine=True),
    "instance_norm_tracked": nn.InstanceNorm2d(4, track_running_stats=True),
    "instance_norm1d": nn.InstanceNorm1d(4),
    "rms_norm": nn.RMSNorm(6),
    "local_response_norm": nn.LocalResponseNorm(5, 1e-2, 0.75, 2.0),
    "local_response_norm_even": nn.LocalResponseNorm(4, 1e-1),
    # ---- pooling
    "max_pool": nn.MaxPool2d(3, 2, 1),
    "max_pool_ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max_pool_dilated": nn.MaxPool2d((2, 3), 1, dilation=(2, 1)),
    "avg_pool": nn.AvgPool2d(3, 2, 1),
    "avg_pool_ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg_pool_exclusive": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "max_pool1d": nn.MaxPool1d(3, 2, 1),
    "avg_pool1d": nn.AvgPool1d(3, 2, 1, count_include_pad=False),
    "adaptive_avg_1": nn.AdaptiveAvgPool2d(1),
    "adaptive_avg": nn.AdaptiveAvgPool2d((3, 5)),
    "adaptive_avg_none": nn.AdaptiveAvgPool2d((None, 2)),
    "adaptive_max": nn.AdaptiveMaxPool2d((4, 3)),
    "adaptive_avg1d": nn.AdaptiveAvgPool1d(3),
    "adaptive_max1d": nn.AdaptiveMaxPool1d(4),
    # ---- moving data
    "pixel_shuffle": nn.PixelShuffle(2),
    "pixel_unshuffle": nn.PixelUnshuffle(2),
    "channel_shuffle": nn.ChannelShuffle(2),
    "flatten": nn.Flatten(),
    "flatten_some": nn.Flatten(2),
    "unflatten": nn.Unflatten(1, (2, -1)),
    "zero_pad": nn.ZeroPad2d((1, 2, 0, 3)),
    "constant_pad_crop": nn.ConstantPad2d((-1, 2, 1, -1), 0.5),
    "reflection_pad": nn.ReflectionPad2d((1, 2, 2, 1)),
    "replication_pad": nn.ReplicationPad2d(2),
    "reflection_pad1d": nn.ReflectionPad1d((2, 1)),
    # ---- resampling
    "upsample_nearest": nn.Upsample(scale_factor=2),
    "upsample_nearest_fraction": nn.Upsample(scale_factor=(1.5, 2.3)),
    "upsample_nearest_size": nn.Upsample((11, 4)),
    "upsample_exact": nn.Upsample((11, 4), mode="nearest-exact"),
    "upsample_exact_scale": nn.Upsample(scale_factor=1.7, mode="nearest-exact"),
    "upsample_bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "upsample_bilinear_fraction": nn.Upsample(scale_factor=1.7, mode="bilinear"),
    "upsample_bilinear_recomputed": nn.Upsample(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    "upsample_bilinear_corners": nn.Upsample((11, 5), mode="bilinear", align_corners=True),
    "upsample_corners_scale": nn.Upsample(scale_factor=1.7, mode="bilinear", align_corners=True),
    "upsample_bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "upsample_bicubic_size": nn.Upsample((9, 13), mode="bicubic", align_corners=True),
    "upsample_linear1d": nn.Upsample(scale_factor=2, mode="linear"),
    "upsample_nearest1d": nn.Upsample(7),
    # ---- matrices
    "linear": nn.Linear(6, 4),
    "linear_no_bias": nn.Linear(6, 4, bias=False),
    "dropout": nn.Dropout(0.5),
    "dropout2d": nn.Dropout2d(0.5, inplace=True),
    "softmax": nn.Softmax(1),
    "log_softmax": nn.LogSoftmax(-1),
    "softmax2d": nn.Softmax2d(),
    "glu": nn.GLU(1),
    "prelu": nn.PReLU(4),
    "prelu_one": nn.PReLU(),
}
SHAPES = {"conv_rectangular": (1, 4, 9, 10), "depthwise": (1, 6, 7, 8), "pixel_shuffle": (1, 8, 3, 4)}
RANK_THREE = ("conv1d", "conv1d_same", "conv_transpose1d", "batch_norm1d", "instance_norm1d", "max_pool1d")
THREE_CHANNELS = ("conv", "conv_same", "conv_valid", "conv_reflect", "conv_replicate", "conv_transpose_plain", "conv1d")


def _shape(name: str) -> tuple[int, ...]:
    channels = 3 if name in (*THREE_CHANNELS, "conv1d_same", "conv_transpose1d") else 4
    if name.endswith("1d") or name in RANK_THREE:
        return (2, channels, 9)
    if name in ("layer_norm", "layer_norm_plain", "layer_norm_no_bias", "linear", "linear_no_bias", "rms_norm"):
        return (2, 4, 5, 6)
    return SHAPES.get(name, (2, channels, 8, 6))


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    module = MODULES[name]
    generator = torch.Generator().manual_seed(1)
    for x in [*module.parameters(), *module.buffers()]:
        if x.is_floating_point():
            x.data = torch.rand(x.shape, generator=generator) + 0.5
    check(module, data(*_shape(name)))


ACTIVATIONS = {
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.3, 0.7),
    "leaky_relu": nn.LeakyReLU(0.2, inplace=True),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "silu": nn.SiLU(inplace=True),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "tanh": nn.Tanh(),
    "elu": nn.ELU(0.7, inplace=True),
    "celu": nn.CELU(0.7),
    "selu": nn.SELU(),
    "softplus": nn.Softplus(),
    "softplus_beta": nn.Softplus(2.0, 30.0),
    "softsign": nn.Softsign(),
    "mish": nn.Mish(),
    "log_sigmoid": nn.LogSigmoid(),
    "softshrink": nn.Softshrink(0.4),
    "tanhshrink": nn.Tanhshrink(),
    "threshold": nn.Threshold(0, 0),
    "rrelu": nn.RReLU(),
    "clamp": Call(lambda x: x.clamp(-0.5, 0.5)),
    "clamp_low": Call(lambda x: x.clamp(min=0)),
    "clamp_high": Call(lambda x: x.clamp_max(0.25)),
    "clip": Call(lambda x: torch.clip(x, max=0.5)),
    "exp": Call(torch.exp),
    "log": Call(lambda x: torch.log(x.abs() + 1)),
    "sqrt": Call(lambda x: torch.sqrt(x.abs())),
    "rsqrt": Call(lambda x: torch.rsqrt(x.abs() + 1)),
    "erf": Call(torch.erf),
    "neg": Call(lambda x: -x),
    "reciprocal": Call(lambda x: 1 / (x.abs() + 1)),
    "floor": Call(torch.floor),
    "ceil": Call(torch.ceil),
    "square": Call(torch.square),
    "powers": Call(lambda x: x**2 + (x.abs() + 1) ** 0.5 + (x.abs() + 1) ** -0.5 + (x.abs() + 1) ** 1.3 + 2**x + x**1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    check(ACTIVATIONS[name], data(2, 3, 4, 5) * 3)


FUNCTIONS = {
    "scalars": lambda x, y: 2 + (3 - x) * 0.5 / 3 - 1 + 1 / (y.abs() + 1),
    "alpha": lambda x, y: torch.add(x, y, alpha=2) + torch.sub(x, y, alpha=0.5) + torch.rsub(x, y, alpha=3),
    "in_place": lambda x, y: (x + 1).add_(y).mul_(2).sub_(y).div_(3).relu_(),
    "broadcast": lambda x, y: x * y.mean((2, 3), keepdim=True) + y.sum(1, keepdim=True),
    "floor_divide": lambda x, y: torch.div(x, y.abs() + 1, rounding_mode="floor"),
    "extremes": lambda x, y: torch.maximum(x, y) - torch.minimum(x, y) + x.amax((2, 3), True) * y.amin(1, True),
    "max_min": lambda x, y: (x.max(dim=1).values, y.min(dim=2, keepdim=True)[0], torch.max(x, y)),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5) + torch.addcdiv(x, x, y.abs() + 1, value=2),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "means": lambda x, y: (x.mean((2, 3)), y.mean(-1), x.sum((1, 2)), x.mean(dim=[1, 3], keepdim=True)),
    "norms": lambda x, y: (x.norm(dim=(2, 3)), F.normalize(y, dim=1), torch.linalg.vector_norm(x, 1, (1, 2), True)),
    "variances": lambda x, y: (x.var((2, 3)), x.std(1, correction=0), torch.var_mean(y, (1, 2), keepdim=True)),
    "cat": lambda x, y: torch.cat([x, y, x[:, :1]], 1),
    "stack": lambda x, y: (torch.stack([x, y], 1), torch.stack([x, y], -1)),
    "split": lambda x, y: [a + 1 for a in (*x.split(3, 1), *y.split([1, 4], 1), *x.chunk(2, 2), *y.tensor_split(4, 1))],
    "unbind": lambda x, y: [a * 2 for a in x.unbind(1)] + [y.unbind(-1)[2].neg()],
    "slices": lambda x, y: (
        x[:, 1:4, ::2],
        y[..., 1:-1],
        x[:, -2:],
        y[:, 2],
        x[:, :, -1],
        x.narrow(3, 1, 2),
        y[:, :-2],
    ),
    "beyond_the_end": lambda x, y: x[:, :99] + y[:, -99:],
    "pads": lambda x, y: F.pad(x, (1, 0, 2, 1, 0, 3), value=1.5) + F.pad(y, (1, 0, 2, 1, 0, 3), value=-1.0),
    "circular_pad": lambda x, y: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "views": lambda x, y: x.view(len(x), -1) + y.reshape(-1, 120),
    "joined": lambda x, y: x.flatten(0, 1).unflatten(0, (-1, 5)) + y.view(-1, 4, 6).reshape(y.shape),
    "squeezes": lambda x, y: x.mean((2, 3), True).squeeze(-1).squeeze(2).unsqueeze(1).unsqueeze(-1).squeeze((1, 3)),
    "transposes": lambda x, y: x.permute(0, 2, 3, 1).transpose(1, 2).contiguous().movedim(3, 1) + y.swapaxes(2, 3),
    "move_axes": lambda x, y: (x.movedim((1, 2), (2, 3)), y.moveaxis(-1, 0) * 2),
    "batch_in_the_middle": lambda x, y: x.permute(1, 0, 2, 3)[2] + y.unsqueeze(0)[0][:, 0],
    "heads": lambda x, y: x.flatten(2).mT.reshape(x.shape[0], 24, 5, 1).permute(3, 0, 1, 2)[0],
    "expand": lambda x, y: x.mean((2, 3), True).expand(-1, -1, 4, 6) + y.mean(1, True).expand_as(x),
    "flip_roll": lambda x, y: (x.flip(3), y.flip((1, 2)), x.roll((1, -2), (2, 3)), y.roll(7, 1)),
    "unfold": lambda x, y: (x.unfold(2, 3, 1), y.unfold(1, 2, 2).unfold(3, 4, 2)),
    "index": lambda x, y: (x[:, [0, 3, 4, -1, 1]], y[..., [2, 1]], x.index_select(2, torch.tensor([3, 0]))),
    "repeat": lambda x, y: (x.repeat(1, 2, 1, 3), y.mean((1, 2, 3)).view(-1, 1).repeat(1, 5)),
    "copies": lambda x, y: x.clone().contiguous().detach() + y.type_as(x).to(x.device).to(x),
    "filled": lambda x, y: x + torch.zeros_like(x[:1]) - torch.ones_like(y[:, :1]) - torch.full_like(y, 2),
    "arange": lambda x, y: x * torch.arange(6) + y * torch.tensor([True, False, True, True])[:, None],
    "matmul": lambda x, y: x @ y.mT,
    "bmm": lambda x, y: torch.bmm(x.flatten(2), y.flatten(2).mT),
    "baddbmm": lambda x, y: torch.baddbmm(x[:, 0] @ y[:, 0].mT, x[:, 1], y[:, 1].mT, beta=0.5, alpha=2),
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, y),
    "causal_attention": lambda x, y: F.scaled_dot_product_attention(x, y, x, is_causal=True, scale=0.3),
    "einsum": lambda x, y: torch.einsum("nchw,nkhw->nck", x, y),
    "channel_shuffle": lambda x, y: x[:, :4].view(-1, 2, 2, 4, 6).transpose(1, 2).contiguous().view(-1, 4, 4, 6),
    "fold_of_constants": lambda x, y: x + torch.linspace(0, 1, 6).softmax(0).view(1, 1, 1, 6),
    "interpolate_like": lambda x, y: F.interpolate(x, size=(9, 7), mode="bilinear") + F.interpolate(y, (9, 7)),
    "std_of_one": lambda x, y: x / (x.std(dim=(1, 2, 3), keepdim=True) + 1e-5),
    "dictionary": lambda x, y: {"out": x + y, "aux": [x - y, (y * 2,)], "again": x * 1.5},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    batch = None if name == "einsum" else 3  # its parts depend on the batch in ways that one trace does not tell
    check(Call(FUNCTIONS[name]), data(2, 5, 4, 6, seed=1), data(2, 5, 4, 6, seed=2), batch=batch)


def test_traced_with_one_image() -> None:
    for name in ("joined", "views", "squeezes", "batch_in_the_middle", "heads", "channel_shuffle", "repeat", "matmul"):
        check(Call(FUNCTIONS[name]), data(1, 5, 4, 6, seed=1), data(1, 5, 4, 6, seed=2))


MIXED = {
    "mixed_filters": lambda x, w, b: F.conv2d(x, (x.mean((2, 3)) @ w).view(5, 3, 2, 2), stride=2),
    "mixed_depthwise": lambda x, w, b: F.conv2d(x, (x.mean((2, 3)) @ w[:, :12]).view(3, 1, 2, 2), padding=1, groups=3),
    "mixed_transposed": lambda x, w, b: F.conv_transpose2d(x, (x.mean((2, 3)) @ w).view(3, 5, 2, 2)),
}


@pytest.mark.parametrize("name", MIXED)
def test_filters_mixed_by_the_network(name: str) -> None:
    imported = check(Call(MIXED[name], w=data(3, 60), b=data(5)), data(1, 3, 6, 6), batch=None)
    with pytest.raises(InvalidModel):
        imported.graph.with_shapes({"args_0": (2, 3, 6, 6)})


MATRICES = {
    "addmm": lambda x, w, b: torch.addmm(b, x, w),
    "addmm_scaled": lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2),
    "mm": lambda x, w, b: torch.mm(x, w),
    "matmul": lambda x, w, b: x.view(-1, 2, 3) @ w[:3],
    "constant_left": lambda x, w, b: w.t() @ x.unsqueeze(-1),
    "weight_standardisation": lambda x, w, b: F.linear(x, F.layer_norm(w.t(), (6,)), b * 2),
}


@pytest.mark.parametrize("name", MATRICES)
def test_with_parameters(name: str) -> None:
    imported = check(Call(MATRICES[name], w=data(6, 4), b=data(4)), data(2, 6))
    kinds = [node.op.name for node in imported.graph.nodes]
    assert ("MatMul" in kinds) == (name == "constant_left")


def test_unbatched() -> None:
    check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(0)), data(3, 8, 8), batch=None)
    check(nn.Conv1d(3, 4, 3), data(3, 8), batch=None)


def test_infinity_and_nan_constants() -> None:
    imported = check(Call(lambda x: torch.maximum(x, torch.full((1,), -math.inf)) + x * -0.0), data(2, 3))
    assert any(str(value) == "-0.0" for value in imported.graph.constants.values())
