"""`indirect` on a GPU, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from algorithms.gpu_layers import check
from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.algorithms.indirect.gpu import (
    INDIRECT_GPU,
    IndirectConfig,
    best_box,
    executed_flops,
    refuse_boxes,
)
from waterline.errors import Refused
from waterline.machine.gpu import A100, H200
from waterline.spec import Activation, ConvSpec, Epilogue

TILE = GpuTile(16, 16, 16, 4, 2)
TAPS = IndirectConfig("taps", TILE)
RUNS = IndirectConfig("runs", TILE)
# Boxes of one pixel row, of a square, of images.
BOXES = [IndirectConfig("boxes", TILE, box) for box in ((1, 1, 16), (1, 4, 4), (4, 2, 2), (16, 1, 1))]
ALL = [TAPS, RUNS, *BOXES]


def layer(text: str, epilogue: Epilogue | None = None) -> ConvSpec:
    return ConvSpec.parse(text).with_epilogue(epilogue or Epilogue())


@pytest.mark.parametrize("config", ALL, ids=str)
@pytest.mark.parametrize(("width", "c", "k"), [(7, 8, 17), (8, 16, 16), (9, 24, 15)])
def test_sizes_around_tiles(config: IndirectConfig, width: int, c: int, k: int):
    """Pixels, depth and outputs that are one less, as many, and one more than a tile's."""
    check(INDIRECT_GPU, layer(f"n1_c{c}_h2_w{width}_k{k}_r1_s2_st1_pd0x0x0x1_dl1_g1"), config)


@pytest.mark.parametrize("config", [TAPS, RUNS], ids=str)
@pytest.mark.parametrize("c", [1, 3, 17])
def test_odd_channels(config: IndirectConfig, c: int):
    check(INDIRECT_GPU, layer(f"n2_c{c}_h3_w2_k7_r3_s3_st1_pd1_dl1_g1"), config)


@pytest.mark.parametrize("config", [TAPS, RUNS, *BOXES[1:]], ids=str)
@pytest.mark.parametrize(
    "text",
    [
        "n1_c8_h4_w3_k16_r3_s3_st1_pd2x0x1x3_dl1_g1",  # padding that differs on all sides
        "n1_c8_h6_w7_k16_r3_s2_st1_pd-1x1x0x-2_dl1_g1",  # cropping
        "n1_c16_h5_w4_k16_r3_s3_st1_pd2_dl2_g1",
        "n2_c8_h6_w4_k16_r1_s1_st2_pd0_dl1_g1",
        "n1_c16_h6_w4_k16_r3_s3_st2_pd1_dl1_g1",
        "n1_c8_h4_w6_k16_r3_s4_st2x3_pd1x2_dl1_g1",
        "n1_c8_h4_w3_k16_r3_s3_st2x1_pd2_dl2x3_g1",  # stride and dilation
        "n1_c8_h2_w3_k16_r5_s5_st1_pd2_dl1_g1",  # an image smaller than the filter
        "n1_c8_h1_w1_k16_r3_s3_st1_pd1_dl1_g1",
        "n3_c8_h1_w2_k16_r2_s2_st1_pd2_dl1_g1",  # tiles that see nothing of the image; a batch
        "n3_c8_h3_w3_k16_r1_s1_st1_pd0_dl1_g1",
    ],
)
def test_geometry(config: IndirectConfig, text: str):
    check(INDIRECT_GPU, layer(text, Epilogue(bias=True)), config)


@pytest.mark.parametrize(
    "text",
    [
        "n1_c3_h8_w8_k20_r7_s7_st2_pd3_dl1_g1",  # first layers: runs in vectors of two
        "n2_c3_h8_w8_k16_r11_s11_st4_pd2x3_dl1_g1",  # of four
        "n1_c3_h5_w7_k16_r3_s3_st2_pd0x0x1x1_dl1_g1",  # of one
        "n1_c4_h4_w4_k16_r3_s3_st1_pd1_dl1_g1",
        "n1_c3_h5_w4_k16_r3_s3_st1_pd2_dl2_g1",
    ],
)
def test_few_channels(text: str):
    for precision in ("f16", "f32"):
        check(INDIRECT_GPU, layer(text), RUNS, precision)


def test_few_channels_fill_the_depth():
    """Seven rows of 21 elements are not padded to seven times seven products."""
    spec = layer("n8_c3_h224_w224_k64_r7_s7_st2_pd3_dl1_g1")
    config = INDIRECT_GPU.configs(spec, H200, "bf16")[0]
    assert config.loads == "runs"
    assert executed_flops(spec, config, "bf16") < 1.15 * spec.flops


@pytest.mark.parametrize("config", [TAPS, *BOXES[1:3]], ids=str)
def test_groups_side_by_side(config: IndirectConfig):
    for text in ("n1_c32_h3_w4_k40_r2_s1_st1_pd0_dl1_g2", "n1_c72_h4_w4_k48_r1_s2_st2_pd0x1_dl1_g3"):
        check(INDIRECT_GPU, layer(text), config)


@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
@pytest.mark.parametrize("config", [TAPS, RUNS, BOXES[1]], ids=str)
def test_precisions(config: IndirectConfig, precision: str):
    check(INDIRECT_GPU, layer("n1_c24_h3_w4_k20_r2_s3_st1_pd1_dl1_g1", Epilogue(bias=True)), config, precision)


@pytest.mark.parametrize("config", [TAPS, RUNS, BOXES[1]], ids=str)
@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(bias=True, after=Activation("relu")),
        Epilogue(residual=True),
        Epilogue(bias=True, before=Activation("silu"), residual=True, after=Activation("clip", (-1.0, 2.0))),
    ],
    ids=str,
)
def test_epilogues(config: IndirectConfig, epilogue: Epilogue):
    check(INDIRECT_GPU, layer("n2_c8_h3_w2_k20_r2_s1_st1_pd1x0_dl1_g1", epilogue), config)


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_large_tiles_are_stored_by_parts(precision: str):
    """Two, four and eight parts, the last of which is not full."""
    for columns, k in ((64, 61), (128, 125)):
        config = IndirectConfig("taps", GpuTile(128, columns, 16, 4, 2))
        epilogue = Epilogue(bias=True, residual=True, after=Activation("relu"))
        check(INDIRECT_GPU, layer(f"n1_c16_h9_w13_k{k}_r1_s1_st1_pd0_dl1_g1", epilogue), config, precision)


@pytest.mark.parametrize("config", [TAPS, RUNS, BOXES[1]], ids=str)
def test_blocks_take_several_tiles(config: IndirectConfig):
    """More tiles than blocks that run at once, in groups of rows that are not full."""
    few = replace(H200, multiprocessors=2)
    config = replace(config, tile=replace(config.tile, warps=8))
    check(INDIRECT_GPU, layer("n1_c8_h11_w15_k40_r2_s1_st1_pd0_dl1_g1"), config, gpu=few)


@pytest.mark.parametrize("gpu", [H200, A100], ids=lambda gpu: gpu.name)
def test_the_chosen_config(gpu):
    for text in ("n2_c64_h5_w5_k40_r3_s3_st1_pd1_dl1_g1", "n1_c3_h12_w12_k16_r3_s3_st2_pd1_dl1_g1"):
        check(INDIRECT_GPU, layer(text, Epilogue(bias=True)), gpu=gpu)


def test_an_empty_batch_launches_nothing():
    spec = layer("n0_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1")
    config = INDIRECT_GPU.configs(spec, H200, "f16")[0]
    assert INDIRECT_GPU.implement(spec, config, H200, "f16").launches == ()


def test_boxes_fill_their_tiles():
    """An image of 7x7 is cut into few pixels of many images, and then most taps beyond the border are left out."""
    spec = layer("n128_c512_h7_w7_k512_r3_s3_st1_pd1_dl1_g1")
    assert best_box(spec, 128) == (128, 1, 1)
    config = INDIRECT_GPU.configs(spec, H200, "bf16")[0]
    assert config.loads == "boxes"
    assert executed_flops(spec, config, "bf16") == pytest.approx(spec.flops * (19 / 21) ** 2)


def test_other_layers_are_refused():
    for text, number in (
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g8", "1 input"),
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1_up2", "(2, 2)"),
        ("n1_c64_h30000_w30000_k8_r3_s3_st1_pd1_dl1_g1", "2147483647"),
    ):
        assert number in INDIRECT_GPU.refuse(layer(text), H200, "f16").reason


def test_boxes_are_refused():
    for text, gpu, number in (
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1", A100, "8.0"),
        ("n1_c12_h4_w4_k8_r3_s3_st1_pd1_dl1_g1", H200, "24 bytes"),
        ("n1_c8_h5_w4_k8_r3_s3_st2_pd1_dl1_g1", H200, "5x4"),
    ):
        assert number in refuse_boxes(layer(text), gpu, "f16").reason
        with pytest.raises(Refused, match=number):
            INDIRECT_GPU.implement(layer(text), BOXES[0], gpu, "f16")
        assert all(config.loads != "boxes" for config in INDIRECT_GPU.configs(layer(text), gpu, "f16"))
    assert refuse_boxes(layer("n1_c12_h4_w4_k8_r3_s3_st1_pd1_dl1_g1"), H200, "tf32") is None


@pytest.mark.parametrize("config", [TAPS, RUNS, BOXES[0], BOXES[2]], ids=str)
@pytest.mark.parametrize("splits", [2, 5])
def test_a_depth_in_parts(config: IndirectConfig, splits: int):
    """Several taps and chunks of channels, boxes that see nothing through some taps, more parts than steps."""
    epilogue = Epilogue(bias=True, before=Activation("relu"), residual=True, after=Activation("clip", (-3.0, 9.0)))
    split = replace(config, tile=replace(TILE, splits=splits))
    check(INDIRECT_GPU, layer("n2_c24_h4_w4_k20_r3_s3_st1_pd1_dl1_g1", epilogue), split)
    check(INDIRECT_GPU, layer("n1_c8_h2_w2_k17_r1_s1_st1_pd0_dl1_g1"), split)


def test_parts_of_groups():
    split = replace(TAPS, tile=replace(TILE, splits=3))
    check(INDIRECT_GPU, layer("n1_c32_h3_w5_k48_r3_s3_st1_pd1_dl1_g2", Epilogue(bias=True)), split)


def test_depths_are_split_where_tiles_are_few():
    few, many = (layer(f"n{n}_c512_h7_w7_k512_r3_s3_st1_pd1_dl1_g1") for n in (1, 128))
    splits = [INDIRECT_GPU.configs(spec, H200, "bf16")[0].tile.splits for spec in (few, many)]
    assert splits[0] > 1
    assert splits[1] == 1
