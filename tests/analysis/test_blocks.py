"""Which layers could be one kernel, and what that would move: rules, and bytes computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner.networks import MAX_POOL, Building, zoo

from analysis.networks import ALONE, SILU, block_of, bottleneck, conv_first, names_of, of_zoo, predicted
from waterline.analysis.blocks import MOST_LAYERS, find_blocks, is_global
from waterline.analysis.fusion import Tensors
from waterline.graph.ops import Binary, Conv, Pool, Reduce, Resize
from waterline.machine import CATALOGUE
from waterline.planner import plan

MACHINE = CATALOGUE[0]
F32 = 4
# The planner makes these quickly at a small size; together they have every kind of block that the zoo has.
NETWORKS = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_400mf",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
    "densenet121",
    "googlenet",
    "convfirst_tiny",
]


# ---- bytes by hand --------------------------------------------------------------------------------------------------
def test_a_bottleneck():
    c, inner, size = 64, 16, 8
    analysis = predicted(bottleneck(c, inner, size), MACHINE)
    block = block_of(analysis, "body.a")
    assert [name.removeprefix("body.") for name in names_of(analysis, block)] == ["a", "b", "c"]
    pixels = size * size
    weights = c * inner + 9 * inner * inner + inner * c
    assert block.fused_bytes == F32 * (weights + 2 * c * pixels)
    inside = (c + inner) + (inner + inner) + (inner + c + c)  # the shortcut is read by the last layer
    assert block.bytes == F32 * (weights + inside * pixels)
    assert block.flops == 2 * weights * pixels


def test_an_mbconv_with_squeeze_and_excite_is_two_kernels():
    analysis = of_zoo("efficientnet_b0", MACHINE, 64)
    first = block_of(analysis, "features.2.1.block.0.0")
    second = block_of(analysis, "features.2.1.block.3.0")
    assert [analysis.layers[i].algorithm for i in first.layers] == ["direct_gemm", "depthwise", "AdaptivePool"]
    assert len(second.layers) == 4
    assert second.layers[0] == first.layers[-1] + 1
    c, wide, squeezed, pixels = 24, 144, 6, 16 * 16
    # The pooled means and the image itself leave the first kernel; the second one reads both, and the shortcut.
    assert first.fused_bytes == F32 * (c * wide + 9 * wide + c * pixels + wide * pixels + wide)
    weights = 2 * wide * squeezed + wide * c
    assert second.fused_bytes == F32 * (weights + wide + wide * pixels + 2 * c * pixels)


def test_a_convnext_block():
    analysis = of_zoo("convnext_tiny", MACHINE, 64)
    block = block_of(analysis, "features.1.0.block.0")
    assert len(block.layers) == 4
    c, pixels = 96, 16 * 16
    weights, scales = 49 * c + 2 * c * 4 * c, 2 * c
    assert block.fused_bytes == F32 * (weights + scales + 2 * c * pixels)


def test_a_conv_first_block_moves_eight_times_less():
    """Per pixel (64+64) + (64+384) + (384+64) elements between layers, 128 as one kernel; weights not counted."""
    c, expansion, size = 64, 6, 64
    made = plan(conv_first(c, expansion, size, has_shortcut=False), MACHINE, ALONE)
    (block,) = (each for each in find_blocks(made) if len(each) == 3)
    steps = made.steps[block.start : block.stop]
    assert [step.name for step in steps] == ["block.conv", "block.expand", "block.project"]
    fused = Tensors(made).fused(block, MACHINE, 1)
    weights = sum(step.spec.weight_bytes for step in steps)
    assert fused.weight_bytes == weights == F32 * (8 * 9 * c + 2 * expansion * c * c)
    moved = sum(step.spec.least_bytes for step in steps) - weights
    assert moved == 8 * (fused.in_bytes + fused.out_bytes)
    macs = sum(step.spec.macs for step in steps)
    assert macs == 53_760 * size * size
    assert 2 * macs / (fused.in_bytes + fused.out_bytes) == 420 / 2  # the paper's elements have two bytes


def test_a_shortcut_that_lies_in_the_block_anyway_costs_nothing_more():
    with_shortcut = predicted(conv_first(64, 4, 16, has_shortcut=True), MACHINE)
    without = predicted(conv_first(64, 4, 16, has_shortcut=False), MACHINE)
    a, b = block_of(with_shortcut, "block.conv"), block_of(without, "block.conv")
    assert a.fused_bytes == b.fused_bytes
    assert a.bytes == b.bytes + F32 * 64 * 16 * 16


def test_parts_of_a_concatenation_leave_each_once():
    analysis = of_zoo("squeezenet1_1", MACHINE, 64)
    block = block_of(analysis, "features.3.squeeze")
    assert [name.split(".")[-1] for name in names_of(analysis, block)] == ["squeeze", "expand1x1", "expand3x3"]
    first = analysis.layers[block.layers[0]]
    pixels = first.flops // (2 * 64 * 16)
    weights = 64 * 16 + 16 * 64 + 9 * 16 * 64
    assert block.fused_bytes == F32 * (weights + 64 * pixels + 128 * pixels)


# ---- rules ----------------------------------------------------------------------------------------------------------
def test_blocks_of_networks():
    resnet = of_zoo("resnet50", MACHINE)
    assert [block.name for block in resnet.blocks if len(block.layers) > 1] == [
        f"layer{stage}.{i}" for stage, count in enumerate((3, 4, 6, 3), 1) for i in range(count)
    ]
    assert len(block_of(resnet, "layer1.0.conv1").layers) == 4  # with the convolution on the shortcut
    assert len(block_of(resnet, "layer1.1.conv1").layers) == 3
    mobilenet = of_zoo("mobilenet_v2", MACHINE)
    inverted = [block for block in mobilenet.blocks if len(block.layers) > 1]
    assert [len(block.layers) for block in inverted] == [2, *[3] * 16]  # whether there is a shortcut or not
    convfirst = of_zoo("convfirst_tiny", MACHINE)
    assert {len(block.layers) for block in convfirst.blocks} == {1, 3}
    assert not [block for block in of_zoo("resnet18", MACHINE).blocks if "fc" in block.name and len(block.layers) > 1]


def test_separable_convolutions_in_a_chain():
    """MobileNet's first version: each pointwise convolution goes with the depthwise one before it."""
    b = Building(x=(1, 16, 12, 12))
    x = "x"
    for i, (c, k) in enumerate([(16, 32), (32, 64), (64, 64)]):
        b.constants[f"d{i}.weight"] = b.random.standard_normal((c, 1, 3, 3)).astype("float32")
        b.add(f"d{i}", Conv(pad=(1, 1, 1, 1), groups=c), x, f"d{i}.weight")
        x = b.conv(f"p{i}", f"d{i}", c, k)
    analysis = predicted(b.graph(x), MACHINE)
    assert [names_of(analysis, block) for block in analysis.blocks if len(block.layers) > 1] == [
        ["d0", "p0"],
        ["d1", "p1"],
        ["d2", "p2"],
    ]


def test_a_plain_chain_has_no_blocks():
    b = Building(x=(1, 8, 16, 16))
    x = b.conv("a", "x", 8, 16, 3)
    x = b.conv("b", x, 16, 16)
    x = b.add("pool", MAX_POOL, x)
    x = b.conv("c", x, 16, 16, 3)
    analysis = predicted(b.graph(x), MACHINE)
    assert {len(block.layers) for block in analysis.blocks} == {1}
    for block in analysis.blocks:
        (layer,) = (analysis.layers[i] for i in block.layers)
        assert (block.fused_bytes, block.fused_bound_ns) == (layer.bytes, layer.bound_ns)
        assert block.name == layer.name


def test_a_long_connection_is_not_one_block():
    """An encoder and a decoder with a connection from one to the other; the residual blocks inside are still found."""
    b = Building(x=(1, 16, 32, 32))
    x = skip = b.conv("first", "x", 16, 16, 3)
    x = b.add("down", Pool("max", (2, 2), (2, 2)), x)
    for i in range(8):
        a = b.conv(f"r{i}.a", x, 16, 16, 3)
        a = b.add(f"r{i}.silu", SILU, a)
        a = b.conv(f"r{i}.b", a, 16, 16, 3)
        x = b.add(f"r{i}.sum", Binary("mul"), a, x)
    x = b.add("up", Resize("nearest", scale=(2.0, 2.0)), x)
    x = b.concat("both", x, skip)
    x = b.conv("last", x, 32, 8, 3)
    analysis = predicted(b.graph(x), MACHINE)
    assert max(len(block.layers) for block in analysis.blocks) < MOST_LAYERS
    for i in range(8):
        names = names_of(analysis, block_of(analysis, f"r{i}.a"))
        assert names[0] == f"r{i}.a"
        assert names[-1] == f"r{i}.sum"


def test_global_steps():
    b = Building(x=(1, 8, 6, 6))
    b.add("space", Reduce("mean", (2, 3)), "x")
    b.add("channels", Reduce("mean", (1,)), b.conv("conv", "x", 8, 8, 3))
    b.add("window", MAX_POOL, "conv")
    b.add("whole", Pool("average", (6, 6)), "conv")
    steps = {step.name: step for step in plan(b.graph("space", "channels", "window", "whole"), MACHINE, ALONE).steps}
    assert {name for name, step in steps.items() if is_global(step)} == {"space", "whole"}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_is_in_one_block_and_a_global_one_is_its_last(name: str):
    made = plan(zoo(name, 64), MACHINE, ALONE)
    blocks = find_blocks(made)
    assert [i for block in blocks for i in block] == list(range(len(made.steps)))
    for block in blocks:
        assert not any(is_global(made.steps[i]) for i in block[:-1])


@pytest.mark.parametrize("cache", [MACHINE.l3_bytes, 1 << 20, 0], ids=["large", "small", "none"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fusing_raises_neither_traffic_nor_bound(name: str, cache: int):
    """In a small cache some layers of a block fit and others do not."""
    analysis = of_zoo(name, replace(MACHINE, l3_bytes=cache))
    for block in analysis.blocks:
        assert 0 < block.fused_bytes <= block.bytes
        assert block.fused_bound_ns <= block.bound_ns * (1 + 1e-9)
        assert block.fused_bound_ns >= block.flops * 1e9 / block.peak_flops_per_s * (1 - 1e-9)
    assert analysis.waterline <= analysis.fused_waterline <= 1 + 1e-9
