"""`block_fusion` on a GPU, in Triton's interpreter, against its layers one after the other in float64."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms.gpu_ahead import block_of
from algorithms.gpu_layers import EXACT, STORE_EPS, TINY
from waterline.algorithms.block_fusion.gpu import BLOCK_FUSION_GPU, GpuBlock
from waterline.algorithms.block_fusion.gpu_kernels import held, parts
from waterline.algorithms.gpu import TORCH_TYPES, Y
from waterline.graph.block import BlockSpec
from waterline.graph.ops import Binary, LayerNorm, Unary
from waterline.machine.gpu import A100, H200
from waterline.reference import compare, conv2d, conv_bound, evaluate
from waterline.reference.bounds import activation_bound
from waterline.reference.convolution import correlate
from waterline.spec import Activation, ConvSpec, Epilogue

RELU, SILU, GELU = Activation("relu"), Activation("silu"), Activation("gelu")
SMALL = GpuBlock(16, 0, 16, 16, 32, 4, 2)
SPATIAL = replace(SMALL, columns=4)
Array = np.ndarray


# ---- blocks ---------------------------------------------------------------------------------------------------------
def front(c: int, size: int, groups: int, h: int, w: int, epilogue: Epilogue | None = None, **given) -> ConvSpec:
    given.setdefault("pad", (size // 2,) * 4)
    given.setdefault("k", c)
    given.setdefault("n", 1)
    return ConvSpec(c=c, h=h, w=w, r=size, s=size, groups=groups, epilogue=epilogue or Epilogue(bias=True), **given)


def products(
    n: int,
    c: int,
    h: int,
    w: int,
    hidden: int,
    k: int,
    function: Activation | None = RELU,
    last: Epilogue | None = None,
) -> tuple[ConvSpec, ConvSpec]:
    return (
        ConvSpec(n, c, h, w, hidden, 1, 1, epilogue=Epilogue(bias=True, after=function)),
        ConvSpec(n, hidden, h, w, k, 1, 1, epilogue=last or Epilogue(bias=True, residual=True)),
    )


def behind(first: ConvSpec, hidden: int, k: int, **given) -> tuple[ConvSpec, ConvSpec]:
    """The two products behind a convolution."""
    return products(first.n, first.k, first.p, first.q, hidden, k, **given)


# ---- the truth ------------------------------------------------------------------------------------------------------
def stored(array: Array, precision: str) -> Array:
    return torch.from_numpy(np.asarray(array)).to(TORCH_TYPES[precision]).to(torch.float64).numpy()


def values_of(block: BlockSpec, draw, precision: str) -> tuple[list[Array], list[Array | None], list[Array | None]]:
    """What the block is given, and the weights and biases of its layers; vectors stay in f32."""

    def drawn(shape: tuple[int, ...]) -> Array:
        return np.asarray(draw(shape), np.float64)

    specs = [layer.spec for layer in block.layers]
    inputs = [stored(drawn(shape), precision if len(shape) == 4 else "f32") for shape in block.inputs]
    weights = [s and stored(drawn((s.k, s.group_c, s.r, s.s)) / (s.group_c * s.taps) ** 0.5, precision) for s in specs]
    biases = [stored(drawn((s.k,)), "f32") if s and s.epilogue.bias else None for s in specs]
    return inputs, weights, biases


def truth(
    block: BlockSpec, inputs: list[Array], weights: list[Array | None], biases: list[Array | None], precision: str
) -> tuple[Array, Array]:
    """The result in float64 and how far from it a computation may be that rounds as the kernel does."""
    values, errors = list(inputs), [np.zeros(()) for _ in inputs]
    for number, layer in enumerate(block.layers):
        given, wrong = [values[i] for i in layer.inputs], [errors[i] for i in layer.inputs]
        spec = layer.spec
        if spec is not None:
            weight, bias = weights[number], biases[number]
            residual = given[-1] if spec.epilogue.residual else None
            # What enters may be off and is rounded; the sum of the bound's two parts passes the activations.
            enters = np.broadcast_to(wrong[0], given[0].shape) + STORE_EPS[precision] * np.abs(given[0])
            plain = replace(spec, epilogue=Epilogue())
            error = correlate(enters, np.abs(weight), plain) + conv_bound(plain, given[0], weight)
            value = correlate(given[0], weight, plain)
            if bias is not None:
                value = value + bias[:, None, None]
            value, error = activation_bound(spec.epilogue.before, value, error + 2.0**-22 * np.abs(value), 2.0**-23)
            value = value if residual is None else value + residual
            value, error = activation_bound(spec.epilogue.after, value, error + 2.0**-22 * np.abs(value), 2.0**-23)
            np.testing.assert_allclose(value, conv2d(given[0], weight, bias, spec, residual), 1e-9, 1e-9)
        elif isinstance(layer.op, LayerNorm):
            value = evaluate(layer.op, [given[0].transpose(0, 2, 3, 1), *given[1:]]).transpose(0, 3, 1, 2)
            deviation = np.sqrt(given[0].var(axis=1, keepdims=True) + layer.op.epsilon)
            shape = np.abs((given[0] - given[0].mean(axis=1, keepdims=True)) / deviation)
            off = np.broadcast_to(wrong[0], given[0].shape) + (STORE_EPS[precision] + 2.0**-20) * np.abs(given[0])
            moved = off + off.mean(axis=1, keepdims=True) + shape * (shape * off).mean(axis=1, keepdims=True)
            error = 2 * moved / deviation * np.abs(given[1])[:, None, None] + 2.0**-20 * np.abs(value)
        elif isinstance(layer.op, Binary):
            value = evaluate(layer.op, given)
            factor = np.abs(given[1]) if layer.op.kind == "mul" else 1.0
            error = wrong[0] * factor + 2.0**-22 * np.abs(value)
        else:
            assert isinstance(layer.op, Unary)
            value, error = activation_bound(layer.op.function, given[0], wrong[0], 2.0**-23)
        values.append(value)
        errors.append(np.asarray(error))
    return values[-1], errors[-1] + STORE_EPS[precision] * np.abs(values[-1]) + TINY


def run(
    block: BlockSpec,
    config: GpuBlock,
    precision: str,
    inputs: list[Array],
    weights: list[Array | None],
    biases: list[Array | None],
) -> Array:
    dtype = TORCH_TYPES[precision]
    n, k, p, q = block.output

    def tensor(array: Array) -> torch.Tensor:
        if array.ndim != 4:
            return torch.from_numpy(array.astype(np.float32)).reshape(-1)
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 2, 3, 1))).to(dtype)

    tensors = {str(i): tensor(array) for i, array in enumerate(inputs)}
    y = tensors[Y] = torch.full((n, p, q, k), float("nan"), dtype=dtype)
    made = [None if each is None else torch.from_numpy(each.astype(np.float32)) for each in weights]
    tensors |= BLOCK_FUSION_GPU.pack(block, config, made, precision)
    tensors |= {f"bias{i}": tensor(bias) for i, bias in enumerate(biases) if bias is not None}
    for launch in BLOCK_FUSION_GPU.implement(block, config, H200, precision).launches:
        launch.run(tensors)
    return y.to(torch.float64).numpy().transpose(0, 3, 1, 2)


def is_exact(block: BlockSpec) -> bool:
    """Whether whole numbers stay whole."""
    epilogues = [layer.spec.epilogue for layer in block.layers if layer.spec]
    functions = [each for epilogue in epilogues for each in (epilogue.before, epilogue.after)]
    return not any(isinstance(layer.op, LayerNorm | Unary) for layer in block.layers) and all(
        each is None or each.kind in EXACT for each in functions
    )


def check(block: BlockSpec, config: GpuBlock | None = SMALL, precision: str = "f16") -> None:
    refusal = BLOCK_FUSION_GPU.refuse(block, H200, precision)
    assert refusal is None, refusal
    config = config or BLOCK_FUSION_GPU.configs(block, H200, precision)[0]
    random = np.random.default_rng(zlib.crc32(f"{block.id} {config}".encode()))
    if is_exact(block):
        inputs, weights, biases = values_of(block, lambda shape: random.integers(-1, 2, shape), precision)
        weights = [None if each is None else np.sign(each) for each in weights]
        expected, _ = truth(block, inputs, weights, biases, precision)
        np.testing.assert_array_equal(run(block, config, precision, inputs, weights, biases), expected)
    inputs, weights, biases = values_of(block, random.standard_normal, precision)
    expected, bound = truth(block, inputs, weights, biases, precision)
    found = compare(run(block, config, precision, inputs, weights, biases), expected, bound)
    assert found.is_within, f"{config} {precision} {block.id}: {found}"


# ---- two products ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 33])
def test_pixels_around_tiles(pixels: int):
    check(block_of(*products(1, 16, 1, pixels, 32, 16)))


@pytest.mark.parametrize(
    ("c", "hidden", "k"), [(1, 1, 1), (15, 15, 17), (16, 16, 16), (17, 17, 31), (33, 1, 49), (48, 33, 80)]
)
def test_channels_around_parts(c: int, hidden: int, k: int):
    check(block_of(*products(1, c, 3, 7, hidden, k)))


@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
def test_precisions(precision: str):
    check(block_of(*products(2, 24, 3, 5, 40, 24)), SMALL, precision)


@pytest.mark.parametrize("function", [None, SILU, GELU, Activation("hard_swish"), Activation("sigmoid")], ids=str)
def test_activations_of_hidden_channels(function: Activation | None):
    """Hidden channels that there are not have other values than zero behind a sigmoid."""
    check(block_of(*products(1, 16, 3, 7, 20, 24, function)))


@pytest.mark.parametrize(
    "last",
    [
        Epilogue(),
        Epilogue(bias=True, after=Activation("clip", (-3.0, 4.0))),
        Epilogue(residual=True, after=SILU),
        Epilogue(bias=True, before=SILU, residual=True, after=RELU),
    ],
    ids=str,
)
def test_epilogues(last: Epilogue):
    check(block_of(*products(2, 24, 3, 4, 20, 24, RELU, last)))


def test_products_without_bias():
    expand, project = products(1, 16, 3, 7, 20, 24, RELU, Epilogue())
    check(block_of(expand.with_epilogue(Epilogue()), project))


def test_operators_behind():
    check(block_of(*products(2, 24, 3, 5, 20, 24, RELU, Epilogue(bias=True)), "scale", "add"))
    check(block_of(*products(2, 16, 3, 5, 20, 24, RELU, Epilogue(bias=True)), "scale", "add", SILU))


# ---- a grouped convolution in front ---------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [SMALL, SPATIAL], ids=["flat", "spatial"])
@pytest.mark.parametrize(("c", "groups"), [(24, 3), (32, 2), (36, 3)])
def test_groups(c: int, groups: int, config: GpuBlock):
    """Of 8 and 16 channels, and of 12, which no part of 16 ends with."""
    first = front(c, 3, groups, 4, 5)
    check(block_of(first, *behind(first, 24, c)), config)


@pytest.mark.parametrize("config", [SMALL, SPATIAL], ids=["flat", "spatial"])
@pytest.mark.parametrize(
    "given",
    [
        {"stride": (2, 2), "h": 9, "w": 8},
        {"stride": (1, 2), "pad": (0, 2, 1, 0), "h": 6, "w": 7},
        {"dilation": (2, 1), "pad": (2, 1, 2, 1), "h": 5, "w": 4},
        {"size": 5, "h": 2, "w": 2},
        {"n": 3, "h": 2, "w": 3},
        {"k": 32, "h": 3, "w": 4},
        {"pad": (-1, 0, 0, -1), "h": 6, "w": 6},
        {"h": 1, "w": 1},
    ],
    ids=str,
)
def test_windows(given: dict, config: GpuBlock):
    first = front(**({"c": 16, "size": 3, "groups": 2} | given))
    check(block_of(first, *behind(first, 20, 24)), config)


@pytest.mark.parametrize("precision", ["f32", "tf32"])
def test_precisions_of_a_front(precision: str):
    first = front(16, 3, 2, 5, 6, Epilogue(bias=True, after=RELU))
    check(block_of(first, *behind(first, 20, 16)), SPATIAL, precision)


# ---- ConvNeXt -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("c", "config"), [(8, SMALL), (17, SPATIAL), (40, SMALL)], ids=["8", "17-spatial", "40"])
def test_convnext(c: int, config: GpuBlock):
    first = front(c, 7, c, 3, 5)
    check(block_of(first, "norm", *behind(first, 4 * c, c, function=GELU)), config)


def test_convnext_with_a_scale():
    first = front(24, 5, 24, 2, 3, n=2)
    check(block_of(first, "norm", *behind(first, 40, 24, function=GELU, last=Epilogue(bias=True)), "scale", "add"))


def test_depthwise_alone_and_norm_alone():
    first = front(20, 3, 20, 5, 6, Epilogue(bias=True, after=RELU), stride=(2, 1))
    check(block_of(first, *behind(first, 24, 16)), SPATIAL)
    check(block_of("norm", *products(2, 20, 3, 5, 24, 20)))


def test_norm_behind_a_grouped_convolution_with_activation():
    first = front(20, 3, 5, 4, 5, Epilogue(after=Activation("sigmoid")))
    check(block_of(first, "norm", *behind(first, 24, 20)), replace(SMALL, outputs=16))


# ---- choice ---------------------------------------------------------------------------------------------------------
def test_the_chosen_config():
    first = front(40, 3, 5, 8, 16, n=1)
    check(block_of(first, *behind(first, 96, 40, function=SILU)), None)


@pytest.mark.parametrize("size", [1, 16, 24, 40, 96, 100, 144, 192, 320, 384, 1000])
def test_parts_hold_all_channels(size: int):
    widths = parts(size, 128)
    assert all(16 <= width <= 128 and width & (width - 1) == 0 for width in widths)
    assert size <= held(size, 128) <= max(16, -(-size * 4 // 3) + 15)


def test_older_processors_hold_fewer_sums():
    block = block_of(*products(1, 64, 4, 4, 64, 256))
    refusal = BLOCK_FUSION_GPU.refuse(block, A100, "f16")
    assert refusal is not None
    assert "before sm_90" in refusal.reason
    assert BLOCK_FUSION_GPU.refuse(block, H200, "f16") is None


def test_configs_fit_and_are_sorted():
    first = front(64, 3, 8, 56, 56, n=32)
    block = block_of(first, *behind(first, 384, 64, function=SILU))
    for precision in ("bf16", "f16", "tf32", "f32"):
        configs = BLOCK_FUSION_GPU.configs(block, H200, precision)
        seconds = [BLOCK_FUSION_GPU.cost(block, each, H200, precision).seconds for each in configs]
        assert configs
        assert seconds == sorted(seconds)


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        ((products(1, 16, 4, 4, 32, 16)[0],), "nothing"),
        (
            (
                products(1, 16, 4, 4, 32, 16)[0],
                front(32, 3, 32, 4, 4, Epilogue(bias=True, after=RELU)),
                products(1, 16, 4, 4, 32, 16)[1],
            ),
            "computed 9 times",
        ),
        (products(1, 16, 4, 4, 32, 4096), "4096 of 384 channels"),
        (products(1, 16, 4, 4, 32, 16, Activation("mish")), "mish"),
        ((front(512, 3, 2, 4, 4), *products(1, 512, 4, 4, 32, 16)), "256"),
        ((*products(1, 16, 4, 4, 32, 16), "norm"), "LayerNorm"),
    ],
)
def test_refusals(layers: tuple, word: str):
    refusal = BLOCK_FUSION_GPU.refuse(block_of(*layers), H200, "f16")
    assert refusal is not None
    assert word in refusal.reason
