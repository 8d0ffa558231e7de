"""`depthwise` on a GPU, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.gpu_layers import check, run
from waterline.algorithms.depthwise.gpu import DEPTHWISE_GPU, GpuStrip
from waterline.machine.gpu import A100, H200, PRECISION_BYTES, Gpu
from waterline.spec import Activation, ConvSpec, Epilogue

SMALL = GpuStrip(rows=2, columns=4, channels=8, taps=3, warps=1)


def layer(
    c: int,
    h: int,
    w: int,
    r: int = 3,
    s: int = 3,
    n: int = 1,
    multiplier: int = 1,
    stride: tuple[int, int] = (1, 1),
    pad: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilation: tuple[int, int] = (1, 1),
    epilogue: Epilogue | None = None,
) -> ConvSpec:
    return ConvSpec(n, c, h, w, c * multiplier, r, s, stride, pad, dilation, c, epilogue=epilogue or Epilogue())


@pytest.mark.parametrize("h", [SMALL.rows - 1, SMALL.rows, SMALL.rows + 1])
@pytest.mark.parametrize("w", [SMALL.columns - 1, SMALL.columns, SMALL.columns + 1])
@pytest.mark.parametrize("c", [SMALL.channels - 1, SMALL.channels, SMALL.channels + 1])
def test_sizes_around_strips(h: int, w: int, c: int):
    check(DEPTHWISE_GPU, layer(c, h, w), SMALL)


@pytest.mark.parametrize(
    ("stride", "dilation", "pad", "rows"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0), 3),
        ((1, 1), (2, 2), (0, 2, 3, 1), 2),
        ((2, 2), (1, 1), (1, 1, 1, 1), 3),
        ((2, 1), (3, 1), (0, 2, 3, 1), 2),
        ((3, 4), (1, 1), (-1, 1, 0, -2), 1),
        ((3, 4), (2, 2), (1, 1, 1, 1), 3),
        ((2, 2), (3, 1), (-1, 1, 0, -2), 2),
        ((5, 5), (1, 1), (0, 0, 0, 0), 2),
    ],
)
def test_strides_dilations_and_padding(
    stride: tuple[int, int], dilation: tuple[int, int], pad: tuple[int, int, int, int], rows: int
):
    spec = layer(5, 9, 10, stride=stride, pad=pad, dilation=dilation, n=2)
    check(DEPTHWISE_GPU, spec, GpuStrip(rows, 4, 8, 3, 1))


@pytest.mark.parametrize(
    ("r", "s", "taps"),
    [(1, 1, 1), (1, 5, 1), (5, 1, 5), (2, 4, 2), (5, 5, 5), (7, 7, 7), (5, 5, 2), (7, 3, 4), (9, 2, 3), (11, 2, 4)],
)
def test_filters(r: int, s: int, taps: int):
    """Whole in the code, in a loop over filter columns, and in several runs of rows, of which the last is not full."""
    check(DEPTHWISE_GPU, layer(3, 6, 7, r, s, pad=(r // 2, s // 2, r // 2, s // 2)), GpuStrip(2, 4, 4, taps, 1))


def test_a_long_filter_with_stride_and_dilation():
    spec = layer(4, 9, 8, 7, 6, n=2, stride=(2, 2), pad=(5, 4, 6, 5), dilation=(2, 2))
    check(DEPTHWISE_GPU, spec, GpuStrip(2, 4, 4, 3, 1))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3)])
def test_images_smaller_than_the_filter(size: tuple[int, int]):
    check(DEPTHWISE_GPU, layer(6, *size, 5, 5, pad=(2, 2, 2, 2)), GpuStrip(2, 4, 4, 5, 1))


@pytest.mark.parametrize("multiplier", [2, 3])
@pytest.mark.parametrize("c", [1, 5])
def test_several_output_channels_of_an_input_channel(multiplier: int, c: int):
    check(DEPTHWISE_GPU, layer(c, 4, 5, multiplier=multiplier, epilogue=Epilogue(bias=True)), SMALL)


@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
def test_precisions(precision: str):
    check(DEPTHWISE_GPU, layer(10, 3, 5, n=2, epilogue=Epilogue(bias=True)), SMALL, precision)


def test_whole_numbers_in_bf16(rng: np.random.Generator):
    """The interpreter rounds results to bf16 otherwise than a GPU; those that bf16 holds need no rounding."""
    spec = layer(10, 3, 5)
    x, weight = (rng.integers(-2, 3, shape).astype(np.float64) for shape in ((1, 10, 3, 5), (10, 1, 3, 3)))
    actual, expected = run(DEPTHWISE_GPU, spec, SMALL, "bf16", H200, x, weight, None, None)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(bias=True, after=Activation("relu")),
        Epilogue(residual=True),
        Epilogue(bias=True, before=Activation("silu"), residual=True, after=Activation("clip", (-1.0, 2.0))),
        Epilogue(after=Activation("gelu")),
        Epilogue(after=Activation("hard_swish")),
    ],
    ids=str,
)
def test_epilogues(epilogue: Epilogue):
    check(DEPTHWISE_GPU, layer(10, 3, 7, n=2, epilogue=epilogue), SMALL)


@pytest.mark.parametrize(
    "spec",
    [layer(64, 7, 7), layer(24, 14, 5, 5, 5, pad=(2, 2, 2, 2), stride=(2, 2)), layer(3, 2, 9, 9, 6, pad=(4, 4, 4, 4))],
    ids=lambda spec: spec.id,
)
@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_the_chosen_config(spec: ConvSpec, precision: str):
    check(DEPTHWISE_GPU, spec, precision=precision)


@pytest.mark.parametrize("gpu", [A100, H200], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize(
    "text", ["n1_c1_h1_w1_k1_r1_s1_st1_pd0_dl1_g1", "n64_c960_h7_w7_k960_r31_s31_st1_pd15_dl1_g960"]
)
def test_configs_are_legal(text: str, gpu: Gpu):
    spec = ConvSpec.parse(text)
    for precision in PRECISION_BYTES:
        configs = DEPTHWISE_GPU.configs(spec, gpu, precision)
        assert configs
        for config in configs:
            assert config.columns.bit_count() == config.channels.bit_count() == 1
            cost = DEPTHWISE_GPU.cost(spec, config, gpu, precision)
            assert cost.seconds > 0
            assert cost.flops >= spec.flops


def test_large_images_choose_strips_of_several_rows():
    spec = ConvSpec.parse("n64_c96_h56_w56_k96_r7_s7_st1_pd3_dl1_g96")
    assert DEPTHWISE_GPU.configs(spec, H200, "bf16")[0].rows >= 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g4", "8 in 4 groups"),
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g8_up2", "(2, 2)"),
        ("n1_c1048576_h4_w4_k1048576_r64_s64_st1_pd32_dl1_g1048576", "elements"),
    ],
)
def test_other_layers_are_refused(text: str, reason: str):
    refusal = DEPTHWISE_GPU.refuse(ConvSpec.parse(text), H200, "f16")
    assert refusal is not None
    assert reason in refusal.reason


def test_unknown_activations_are_refused():
    assert DEPTHWISE_GPU.refuse(layer(8, 4, 4, epilogue=Epilogue(after=Activation("mish"))), H200, "f16")
