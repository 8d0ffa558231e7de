"""Fused blocks compute what their layers compute alone, to the bit, on guarded memory; and say why they cannot.

Against float64 within the bound of the network, and against the same network without blocks. Every strip height, band,
batch and number of threads gives the same bits.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from algorithms.block_networks import (
    NETWORKS,
    dilated,
    inner_residual,
    inverted_down,
    inverted_residual,
    readers,
    separable,
    skipping,
    stem,
)
from algorithms.blocks import block_steps, check, fused_plan
from algorithms.layers import LOCAL, machine_of, machines
from waterline.algorithms.block_fusion import BLOCK_FUSION
from waterline.algorithms.block_fusion.flow import least_rows
from waterline.algorithms.block_fusion.layers import rings
from waterline.algorithms.block_fusion.model import BUFFER_SHARE, WINDOW_STRIPS, flow_of
from waterline.algorithms.block_fusion.pricing import BlockConfig
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.graph.ops import AdaptivePool, Concat, Conv, Pool
from waterline.machine import CATALOGUE, Machine
from waterline.planner import views_of
from waterline.spec import ConvSpec

OTHER_ISAS = [parameter for parameter in machines() if parameter.values[0] != LOCAL.isa]


# ---- kinds of layers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_block(name: str, forked):
    """Buffers with room to spare, and without any."""
    make, layers = NETWORKS[name]
    number = list(NETWORKS).index(name)
    graph, rows = make(2, 9, 7), (1, 2, 3)[number % 3]
    check(graph, LOCAL, forked, [rows], layers=layers, bands=[1, 2, 9], window_strips=1 + 2 * (number % 2))


@pytest.mark.parametrize("name", ["conv_first", "inverted_down", "conv_next_scale", "bottleneck"])
@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_every_kind_of_vector(isa: str, name: str, forked):
    make, layers = NETWORKS[name]
    check(make(1, 7, 5), machine_of(isa), forked, [2], layers=layers, bands=[1, 2])


# ---- rings and windows ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inverted_residual", (True, False)),  # depthwise reads the expansion, a product reads the depthwise
        ("inverted_grouped", (True, False)),
        ("conv_first", (False, False)),  # its filter reads what enters the block
        ("stem", (False,)),  # pooling needs its rows one after the other
        ("basic", (False,)),  # so does the indirection buffer
    ],
)
def test_what_lies_in_rings(name: str, expected: tuple[bool, ...]):
    (step,) = block_steps(fused_plan(NETWORKS[name][0](1, 12, 10), MACHINE, 2))
    assert rings(step.spec, step.config.layers) == expected
    flow = flow_of(step.spec)
    for is_ring, held, least in zip(expected, step.config.buffer_rows, least_rows(flow, 2), strict=True):
        assert held == least if is_ring else held >= least


RINGED = {
    "3x3/2": inverted_down(1, 14, 5, size=3),
    "5x5/2": inverted_down(1, 14, 5, size=5),
    "3x3": inverted_residual(1, 14, 5, size=3),
    "5x5": inverted_residual(1, 14, 5, size=5),
    "dilated": dilated(1, 14, 5),
    "skipping": skipping(1, 14, 5),
    "inner residual": inner_residual(1, 14, 5),
}


@pytest.mark.parametrize("name", RINGED)
def test_rings_wherever_they_begin_again(name: str, forked):
    """Strips of every height, so that rings of every length wrap at every filter row."""
    check(RINGED[name], LOCAL, forked, range(1, 6), bands=[1, 3])


# ---- strips, bands, images, channels --------------------------------------------------------------------------------
def test_every_height_of_strips(forked):
    check(readers(1, 6, 4), LOCAL, forked, range(1, 7), bands=range(1, 7), window_strips=2)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (inverted_residual, (2, 2)),
        (separable, (4, 1)),
        (separable, (13, 11)),
        (stem, (6, 1)),
        (stem, (7, 5)),
        (stem, (13, 11)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_sizes_of_images(make, size: tuple[int, int], forked):
    check(make(3, *size), LOCAL, forked, [1 + size[1] % 3], bands=[1, 3])


LANES = LOCAL.lanes()


@pytest.mark.parametrize("channels", sorted({1, 3, LANES - 1, LANES, LANES + 1}))
def test_numbers_of_channels(channels: int, forked):
    check(inverted_residual(2, 5, 3, c=channels), LOCAL, forked, [2], layers=3, bands=[2])


# ---- threads and batches --------------------------------------------------------------------------------------------
def test_one_kernel_for_all_batches_and_numbers_of_cores(forked):
    """Both only change how many bands there are."""
    kernels, counts = set(), set()
    for batch in (1, 2, 3, 5):
        graph = separable(batch, 12, 5)
        for cores in (1, 2, 3):
            machine = replace(LOCAL, cores=cores)
            (step,) = block_steps(fused_plan(graph, machine, 1))
            (call,) = BLOCK_FUSION.implement(step.spec, step.config, views_of(step), machine).calls
            assert call.items % batch == 0
            kernels.add(call.kernel)
            counts.add(call.items // batch)
            if cores == batch:
                check(graph, machine, forked, [1])
    assert len(kernels) == 1
    assert len(counts) > 1, "no case has several bands"


# ---- refusals -------------------------------------------------------------------------------------------------------
MACHINE = CATALOGUE[4]  # 256 KB of second-level cache


def block_of(*layers: BlockLayer, shape: tuple[int, ...] = (1, 8, 6, 6)) -> BlockSpec:
    """A chain whose first layer reads an image."""
    chain = tuple(replace(layer, inputs=(number,)) for number, layer in enumerate(layers))
    return BlockSpec((shape,), chain)


def convolution(text: str, **changes: object) -> BlockLayer:
    spec = replace(ConvSpec.parse(text), **changes)
    return BlockLayer(Conv(), (0,), (spec.n, spec.k, spec.p, spec.q), spec)


POINTWISE = convolution("n1_c8_h6_w6_k8_r1_s1_st1_pd0_dl1_g1")


def reason(block: BlockSpec, machine: Machine = MACHINE) -> str:
    refusal = BLOCK_FUSION.refuse(block, machine)
    return "" if refusal is None else refusal.reason


def test_a_block_that_is_served():
    assert reason(block_of(POINTWISE, POINTWISE)) == ""


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (convolution("n1_c8_h6_w6_k8_r3_s3_st1_pd1_dl1_g1_up2"), r"inserts \(2, 2\) zeros"),
        (convolution("n1_c8_h6_w6_k8_r1_s129_st1_pd0x64_dl1_g8"), "of up to 128 taps, the layer's have 129"),
        (BlockLayer(Pool("max", (3, 3), dilation=(2, 1)), (0,), (1, 8, 2, 4)), r"pooling with dilation \(2, 1\)"),
        (BlockLayer(AdaptivePool("average", (3, 3)), (0,), (1, 8, 3, 3)), "AdaptivePool does not work on rows"),
        (BlockLayer(Concat(1), (0,), (1, 8, 6, 6)), "Concat does not work on rows"),
    ],
    ids=["upsampling", "wide depthwise filters", "dilated pooling", "another operator", "concatenation"],
)
def test_a_layer_that_no_block_may_have(layer: BlockLayer, words: str):
    assert re.search(words, reason(block_of(POINTWISE, layer)))


def test_a_single_row_is_no_strip():
    row = convolution("n1_c8_h1_w6_k8_r1_s1_st1_pd0_dl1_g1")
    assert reason(block_of(row, row, shape=(1, 8, 1, 6))) == "its result has 1 row: there are no strips"


def test_strips_that_do_not_fit_the_cache_say_how_much_they_take():
    """Three rows of the inner image must be there at once for one row of the result."""
    width, channels = 64, 512
    expand = convolution(f"n1_c8_h{width}_w{width}_k{channels}_r1_s1_st1_pd0_dl1_g1")
    depthwise = convolution(f"n1_c{channels}_h{width}_w{width}_k{channels}_r3_s3_st1_pd1_dl1_g{channels}")
    block = block_of(expand, depthwise, shape=(1, 8, width, width))
    found = re.search(r"(\d+) bytes, more than 50% of the second-level cache, 262144 bytes", reason(block))
    assert found
    assert int(found[1]) >= 3 * 4 * width * channels
    assert reason(block, replace(MACHINE, l2_bytes=2 * int(found[1]))) == ""
    assert reason(block, replace(MACHINE, l2_bytes=2 * int(found[1]) - 2)) != ""


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_configs_fit_the_cache_and_the_fastest_is_first(machine: Machine):
    def memory(config: BlockConfig) -> int:
        return BLOCK_FUSION.buffer_bytes(block, config.buffer_rows)

    def seconds(config: BlockConfig) -> float:
        return BLOCK_FUSION.cost(block, config, machine).seconds

    for name in ("conv_first", "inverted_down", "bottleneck", "stem"):
        (step,) = block_steps(fused_plan(NETWORKS[name][0](1, 32, 28), machine))
        block = step.spec
        assert isinstance(block, BlockSpec)
        configs = BLOCK_FUSION.configs(block, machine)
        heights = [config.strip_rows for config in configs]
        assert len(set(heights)) > 1
        assert all(heights.count(height) <= len(WINDOW_STRIPS) for height in heights)
        assert configs == sorted(configs, key=seconds)
        for config in configs:
            assert len(config.buffer_rows) == len(block.layers) - 1
            assert memory(config) <= BUFFER_SHARE * machine.l2_bytes
