"""`block_fusion` on a GPU, in Triton's interpreter, against its layers one after the other in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest

from algorithms.gpu_ahead import block_of
from algorithms.gpu_blocks import check_block
from waterline.algorithms.block_fusion.gpu import BLOCK_FUSION_GPU, GpuBlock
from waterline.algorithms.block_fusion.gpu_kernels import held, parts
from waterline.graph.block import BlockSpec
from waterline.machine.gpu import A100, H200
from waterline.spec import Activation, ConvSpec, Epilogue

RELU, SILU, GELU = Activation("relu"), Activation("silu"), Activation("gelu")
SMALL = GpuBlock(16, 0, 16, 16, 32, 4, 2)
SPATIAL = replace(SMALL, columns=4)


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


def check(block: BlockSpec, config: GpuBlock | None = SMALL, precision: str = "f16") -> None:
    check_block(BLOCK_FUSION_GPU, block, config, precision)


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
