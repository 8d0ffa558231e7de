"""`grouped` on a GPU, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from algorithms.gpu_layers import check
from waterline.algorithms.grouped.gpu import GROUPED_GPU, Axis, GpuWindows, Layout
from waterline.machine.gpu import A100, H200, PRECISIONS
from waterline.spec import Activation, ConvSpec, Epilogue

PLAIN = GpuWindows((1, 1), 2, 4, 16)  # two groups of 8 in a product, four taps at a time
TILES = GpuWindows((2, 2), 1, 4, 16)
ROW = GpuWindows((1, 2), 2, 16, 16)  # the window of a 3x3 filter in one product


def layer(text: str, epilogue: Epilogue | None = None) -> ConvSpec:
    return ConvSpec.parse(text).with_epilogue(epilogue or Epilogue())


@pytest.mark.parametrize("config", [PLAIN, TILES, ROW], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 5), (4, 4), (1, 17)])
def test_sizes_around_tiles(config: GpuWindows, size: tuple[int, int]):
    """Outputs around the tile, rows around those of a product, an odd number of groups."""
    check(GROUPED_GPU, layer(f"n1_c24_h{size[0]}_w{size[1]}_k24_r3_s3_st1_pd1_dl1_g3"), config)


@pytest.mark.parametrize("config", [PLAIN, TILES, ROW], ids=str)
@pytest.mark.parametrize(
    "text",
    [
        "n2_c16_h6_w5_k16_r3_s3_st2_pd1_dl1_g2",
        "n1_c16_h7_w6_k16_r3_s3_st1_pd2_dl2_g2",
        "n1_c16_h5_w9_k16_r3_s3_st1x3_pd2x0x1x1_dl2x1_g2",
        "n1_c16_h6_w6_k16_r3_s3_st1_pd-1_dl1_g2",
        "n1_c16_h2_w2_k16_r5_s5_st1_pd2_dl1_g2",  # an image smaller than the filter
        "n3_c16_h4_w4_k16_r1_s1_st1_pd0_dl1_g2",
        "n1_c16_h1_w1_k16_r3_s3_st1_pd3_dl1_g2",
    ],
)
def test_strides_dilations_and_padding(config: GpuWindows, text: str):
    check(GROUPED_GPU, layer(text), config)


@pytest.mark.parametrize(
    "text",
    [
        "n1_c16_h3_w4_k16_r3_s3_st1_pd1_dl1_g2_up2",
        "n1_c16_h3_w4_k16_r3_s3_st2_pd1_dl1_g2_up2",
        "n1_c16_h3_w3_k16_r4_s3_st1_pd2_dl1_g2_up2x1",
        "n1_c16_h3_w3_k16_r2_s2_st1_pd1_dl1_g2_up3",  # outputs that read nothing, a tile that is no power of two
        "n1_c16_h3_w3_k16_r2_s2_st2_pd1_dl2_g2_up2",  # none reads anything
    ],
)
def test_upsampled(text: str):
    check(GROUPED_GPU, layer(text, Epilogue(bias=True)))


@pytest.mark.parametrize(
    ("c", "k", "groups"), [(32, 32, 2), (64, 64, 2), (8, 16, 2), (32, 8, 2), (6, 12, 6), (12, 6, 3)]
)
def test_group_widths(c: int, k: int, groups: int):
    check(GROUPED_GPU, layer(f"n1_c{c}_h3_w3_k{k}_r3_s3_st1_pd1_dl1_g{groups}", Epilogue(bias=True)))


@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
@pytest.mark.parametrize("config", [PLAIN, None], ids=str)
def test_precisions(config: GpuWindows | None, precision: str):
    spec = layer("n2_c40_h5_w5_k40_r3_s3_st1_pd1_dl1_g5", Epilogue(bias=True, residual=True))
    check(GROUPED_GPU, spec, config, precision)


@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(bias=True, after=Activation("relu")),
        Epilogue(residual=True),
        Epilogue(bias=True, before=Activation("silu"), residual=True, after=Activation("clip", (-1.0, 2.0))),
        Epilogue(after=Activation("hard_swish")),
    ],
    ids=str,
)
@pytest.mark.parametrize("config", [PLAIN, TILES], ids=str)
def test_epilogues(config: GpuWindows, epilogue: Epilogue):
    check(GROUPED_GPU, layer("n1_c24_h5_w3_k24_r3_s3_st1_pd1_dl1_g3", epilogue), config)


def test_programs_take_several_products():
    few = replace(H200, multiprocessors=1, registers=PLAIN.warps * 32 * 128 * 3)
    spec = layer("n1_c32_h9_w9_k32_r3_s3_st1_pd1_dl1_g4")
    assert Layout(spec, PLAIN).programs(few, "f16") < -(-spec.p * spec.q // PLAIN.rows)
    check(GROUPED_GPU, spec, PLAIN, gpu=few)


def test_weights_that_do_not_stay():
    """A filter with more products than are unrolled."""
    spec = layer("n1_c16_h6_w6_k16_r7_s7_st1_pd3_dl1_g2")
    config = replace(PLAIN, pixels=2)
    assert not Layout(spec, config).is_held(H200, "f16")
    check(GROUPED_GPU, spec, config)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("gpu", [A100, H200], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("width", [8, 16, 32])
def test_configs_are_few_legal_and_sorted(width: int, gpu: object, precision: str):
    spec = layer(f"n64_c256_h56_w56_k256_r3_s3_st1_pd1_dl1_g{256 // width}")
    configs = GROUPED_GPU.configs(spec, gpu, precision)
    assert 1 < len(configs) <= 8
    assert all(Layout(spec, each).fits(gpu, precision, Layout(spec, each).is_held(gpu, precision)) for each in configs)
    seconds = [GROUPED_GPU.cost(spec, each, gpu, precision).seconds for each in configs]
    assert seconds == sorted(seconds)
    assert all(GROUPED_GPU.cost(spec, each, gpu, precision).flops >= spec.flops for each in configs)


def test_windows_of_an_axis():
    """Two outputs of a 3-tap filter read four inputs; those of an upsampled one read what is no inserted zero."""
    axis = Axis(inputs=8, outputs=8, taps=3, stride=1, dilation=1, pad=1, upsample=1, tile=2)
    assert (axis.origin, axis.count, axis.spacing, axis.step, axis.tiles) == (-1, 4, 1, 2, 4)
    assert axis.tap_table().tolist() == [[0, -1], [1, 0], [2, 1], [-1, 2]]
    axis = Axis(inputs=4, outputs=8, taps=3, stride=1, dilation=1, pad=1, upsample=2, tile=2)
    assert (axis.origin, axis.count, axis.step) == (0, 2, 1)
    assert axis.tap_table().tolist() == [[1, 0], [-1, 2]]
    assert Axis(8, 4, 3, stride=1, dilation=2, pad=0, upsample=1, tile=1).spacing == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1", "one group"),
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g8", "depthwise"),
        ("n1_c24_h4_w4_k24_r3_s3_st1_pd1_dl1_g2", "12 input"),
        ("n1_c128_h4_w4_k128_r3_s3_st1_pd1_dl1_g2", "64 input"),
        ("n1_c64_h99999_w9999_k64_r3_s3_st1_pd1_dl1_g8", "elements"),
        ("n1_c64_h4_w4_k64_r3_s3_st1_pd9_dl1_g2_up8", "upsampling"),
    ],
)
def test_other_layers_are_refused(text: str, reason: str):
    refusal = GROUPED_GPU.refuse(ConvSpec.parse(text), H200, "f16")
    assert refusal is not None
    assert reason in refusal.reason
