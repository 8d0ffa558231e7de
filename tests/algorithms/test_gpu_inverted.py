"""`block_fusion:inverted` on a GPU, in Triton's interpreter, against its layers one after the other in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest

from algorithms.gpu_ahead import block_of
from algorithms.gpu_blocks import check_block
from waterline.algorithms.block_fusion.gpu_inverted import BLOCK_FUSION_INVERTED_GPU, GpuInverted
from waterline.algorithms.gpu_registry import GPU_BLOCK_REGISTRY
from waterline.graph.block import BlockSpec
from waterline.machine.gpu import A100, H200
from waterline.spec import Activation, ConvSpec, Epilogue

RELU, RELU6, SILU = Activation("relu"), Activation("clip", (0.0, 6.0)), Activation("silu")
SMALL = GpuInverted(4, 4, 16, 16, 16, 32, 4, 2)
# So few blocks that each has several tiles, and writes its buffers again and again.
ONE = replace(H200, multiprocessors=1)


def inverted(
    c: int,
    hidden: int,
    k: int,
    h: int,
    w: int,
    size: int = 3,
    function: Activation | None = RELU6,
    last: Epilogue | None = None,
    n: int = 1,
    is_biased: bool = True,
    **given,
) -> tuple[ConvSpec, ConvSpec, ConvSpec]:
    """Expansion, filter, projection."""
    inner = Epilogue(bias=is_biased, after=function)
    given.setdefault("pad", (size // 2,) * 4)
    expand = ConvSpec(n, c, h, w, hidden, 1, 1, epilogue=inner)
    depthwise = ConvSpec(n, hidden, h, w, hidden, size, size, groups=hidden, epilogue=inner, **given)
    last = Epilogue(bias=True) if last is None else last
    return expand, depthwise, ConvSpec(n, hidden, depthwise.p, depthwise.q, k, 1, 1, epilogue=last)


def check(block: BlockSpec, config: GpuInverted | None = SMALL, precision: str = "f16") -> None:
    check_block(BLOCK_FUSION_INVERTED_GPU, block, config, precision, ONE)


def refusal_of(block: BlockSpec) -> str:
    refusal = BLOCK_FUSION_INVERTED_GPU.refuse(block, H200, "f16")
    assert refusal is not None
    return refusal.reason


# ---- the whole block ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 5), (3, 4), (4, 4), (5, 4), (4, 9), (9, 7)])
def test_images_around_tiles(h: int, w: int):
    check(block_of(*inverted(16, 16, 16, h, w)))


@pytest.mark.parametrize(
    ("c", "hidden", "k"), [(1, 1, 1), (15, 15, 17), (16, 32, 16), (17, 33, 31), (40, 17, 49), (8, 48, 72)]
)
def test_channels_around_chunks_and_parts(c: int, hidden: int, k: int):
    check(block_of(*inverted(c, hidden, k, 5, 6)))


@pytest.mark.parametrize(
    "given",
    [
        {"stride": (2, 2), "h": 9, "w": 8},
        {"stride": (2, 2), "h": 7, "w": 7, "size": 5},
        {"size": 5, "h": 6, "w": 5},
        {"size": 5, "h": 2, "w": 2},
        {"stride": (1, 2), "pad": (0, 2, 1, 0), "h": 6, "w": 7},
        {"stride": (3, 2), "size": 1, "h": 7, "w": 8},
        {"dilation": (2, 1), "pad": (2, 1, 2, 1), "h": 5, "w": 6},
        {"pad": (-1, 0, 0, -1), "h": 7, "w": 6},
        {"pad": (3, 4, 2, 5), "h": 2, "w": 3},
    ],
    ids=str,
)
def test_windows(given: dict):
    check(block_of(*inverted(12, 20, 16, **given)))


@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
def test_precisions(precision: str):
    check(block_of(*inverted(24, 40, 24, 6, 5, last=Epilogue(bias=True, residual=True))), SMALL, precision)


@pytest.mark.parametrize(
    "function", [None, SILU, Activation("hard_swish"), Activation("sigmoid"), Activation("leaky_relu", (0.1,))], ids=str
)
def test_activations(function: Activation | None):
    """Behind a sigmoid padding is zero all the same, and hidden channels that there are not have other values."""
    check(block_of(*inverted(16, 20, 24, 5, 6, function=function)))


@pytest.mark.parametrize(
    "last",
    [
        Epilogue(),
        Epilogue(residual=True),
        Epilogue(bias=True, residual=True, after=RELU),
        Epilogue(bias=True, before=SILU, residual=True, after=Activation("clip", (-3.0, 4.0))),
    ],
    ids=str,
)
def test_epilogues(last: Epilogue):
    check(block_of(*inverted(16, 20, 16, 5, 6, last=last)))


def test_layers_without_bias_and_operators_behind():
    check(block_of(*inverted(16, 20, 24, 5, 6, is_biased=False, last=Epilogue())))
    check(block_of(*inverted(16, 20, 16, 5, 3), "scale", "add", SILU))


def test_batches():
    check(block_of(*inverted(16, 20, 16, 5, 6, n=3, last=Epilogue(bias=True, residual=True))))
    empty = block_of(*inverted(16, 20, 16, 5, 6, n=0))
    assert BLOCK_FUSION_INVERTED_GPU.refuse(empty, H200, "f16") is None
    config = BLOCK_FUSION_INVERTED_GPU.configs(empty, H200, "f16")[0]
    assert BLOCK_FUSION_INVERTED_GPU.implement(empty, config, H200, "f16").launches == ()


@pytest.mark.parametrize("config", [replace(SMALL, columns=8, step=32), replace(SMALL, rows=2, columns=8)], ids=str)
def test_tiles_that_are_not_square(config: GpuInverted):
    check(block_of(*inverted(16, 20, 16, 7, 11, stride=(1, 2), last=Epilogue(bias=True))), config)


def test_blocks_take_several_tiles():
    """More tiles than blocks, with an odd number of chunks: each buffer is written in every place of a tile's order."""
    block = block_of(*inverted(16, 48, 16, 18, 10))
    launch = BLOCK_FUSION_INVERTED_GPU.implement(block, SMALL, ONE, "f16").launches[0]
    assert 3 * launch.grid[0] < 15
    check(block)


# ---- without one of the products ------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", ["f16", "f32"])
@pytest.mark.parametrize("given", [{}, {"stride": (2, 2), "size": 5}, {"n": 2, "function": SILU}], ids=str)
def test_without_projection(given: dict, precision: str):
    check(block_of(*inverted(20, 40, 1, 7, 6, **given)[:2]), SMALL, precision)


def test_without_projection_with_a_residual():
    expand, depthwise, _ = inverted(20, 40, 1, 6, 5)
    epilogue = Epilogue(bias=True, before=SILU, residual=True, after=RELU)
    check(block_of(expand, depthwise.with_epilogue(epilogue)))
    check(block_of(expand, depthwise, "scale", "add", SILU))


@pytest.mark.parametrize("precision", ["f16", "f32"])
@pytest.mark.parametrize("given", [{}, {"stride": (2, 2), "size": 5}, {"n": 2, "function": SILU}], ids=str)
def test_without_expansion(given: dict, precision: str):
    check(block_of(*inverted(1, 33, 20, 7, 6, **given)[1:]), SMALL, precision)


def test_without_expansion_with_a_residual():
    check(block_of(*inverted(1, 24, 24, 5, 6, last=Epilogue(bias=True, residual=True))[1:]))


def test_buffers_only_where_there_is_an_expansion():
    layers = inverted(16, 20, 16, 5, 6)

    def workspaces(*chosen: ConvSpec) -> tuple:
        return BLOCK_FUSION_INVERTED_GPU.implement(block_of(*chosen), SMALL, ONE, "f16").workspaces

    assert workspaces(*layers[1:]) == ()
    (scratch,) = workspaces(*layers)
    launch = BLOCK_FUSION_INVERTED_GPU.implement(block_of(*layers), SMALL, ONE, "f16").launches[0]
    patch = 48  # 6 x 6 pixels in steps of 16
    assert scratch.elems == launch.grid[0] * 2 * patch * SMALL.chunk


# ---- choice ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_the_chosen_config(precision: str):
    check(block_of(*inverted(24, 72, 40, 9, 9, 5, SILU, stride=(2, 2))), None, precision)


@pytest.mark.parametrize("gpu", [A100, H200], ids=str)
def test_configs_are_sorted_and_fill_the_processor(gpu):
    block = block_of(*inverted(24, 144, 24, 56, 56, n=32, last=Epilogue(bias=True, residual=True)))
    for precision in ("bf16", "f16", "tf32", "f32"):
        configs = BLOCK_FUSION_INVERTED_GPU.configs(block, gpu, precision)
        seconds = [BLOCK_FUSION_INVERTED_GPU.cost(block, each, gpu, precision).seconds for each in configs]
        assert configs
        assert seconds == sorted(seconds)
        launch = BLOCK_FUSION_INVERTED_GPU.implement(block, configs[0], gpu, precision).launches[0]
        assert launch.grid[0] >= gpu.multiprocessors


def test_costs_count_the_pixels_around_a_tile():
    block = block_of(*inverted(24, 144, 24, 56, 56, n=32))
    large, small = (replace(SMALL, rows=rows, columns=rows) for rows in (8, 4))
    flops = [BLOCK_FUSION_INVERTED_GPU.cost(block, each, H200, "f16").flops for each in (large, small)]
    assert block.flops < flops[0] < flops[1]


def test_the_registry_has_both():
    assert [each.name for each in GPU_BLOCK_REGISTRY] == ["block_fusion", "block_fusion:inverted"]
    expand, depthwise, project = inverted(16, 20, 16, 5, 6)
    products = block_of(expand, replace(project, c=expand.k, h=5, w=6))
    for block, serves in ((block_of(expand, depthwise, project), [False, True]), (products, [True, False])):
        assert [each.refuse(block, H200, "f16") is None for each in GPU_BLOCK_REGISTRY] == serves


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        (inverted(16, 32, 16, 4, 4)[:1], "is nothing"),
        (inverted(16, 32, 16, 4, 4)[1:2], "no 1x1 convolution before or behind it"),
        ((*inverted(16, 32, 16, 4, 4), *inverted(16, 32, 16, 4, 4)[:1]), "behind its convolutions"),
        ((*inverted(16, 32, 16, 4, 4)[:2], "norm"), "LayerNorm"),
        ((ConvSpec(1, 16, 4, 4, 32, 1, 1), ConvSpec(1, 32, 4, 4, 32, 3, 3, groups=4)), "grouped 3x3"),
        ((ConvSpec(1, 16, 4, 4, 32, 1, 1), ConvSpec(1, 32, 4, 4, 64, 3, 3, groups=32)), "-> 64"),
        (inverted(16, 32, 4096, 4, 4), "4096 in its result no tile"),
        (inverted(8192, 32, 16, 4, 4), "8192 channels before"),
        (inverted(16, 32, 16, 4, 4, function=Activation("mish")), "mish"),
        (inverted(16, 32, 16, 30000, 40000, n=2), "2400000000 pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(layers: tuple, word: str):
    assert word in refusal_of(block_of(*layers))


def test_residuals_inside_are_refused():
    expand, depthwise, project = inverted(16, 16, 16, 4, 4)
    block = block_of(expand, depthwise.with_epilogue(Epilogue(residual=True)), project)
    assert "adds a residual inside the block" in refusal_of(block)
