"""Dense convolution for training on a GPU, in Triton's interpreter, against PyTorch's in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn.functional import conv2d, pad

from algorithms.gpu_gradients import check
from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.algorithms.gpu import BIAS, X, Y
from waterline.algorithms.gradients import DW, DY, WEIGHT
from waterline.algorithms.indirect.gpu import INDIRECT_GPU
from waterline.algorithms.indirect.gpu_gradients import (
    data_gradient,
    forward,
    refuse,
    strided_of,
    strided_tiles,
    weight_gradient,
)
from waterline.algorithms.indirect.gpu_weight_gradient import WeightConfig, weight_configs, weight_gradient_of
from waterline.errors import Refused
from waterline.machine.gpu import A100, H200, PRECISIONS, Gpu
from waterline.spec import ConvSpec, Epilogue

# Few multiprocessors, so that programs have several products; with bulk copies and without.
NEW, OLD = replace(H200, multiprocessors=2), replace(A100, multiprocessors=2)
LAYERS = [
    "n2_c16_h5_w4_k16_r3_s3_st1_pd1_dl1_g1",
    "n1_c7_h3_w5_k5_r3_s3_st1_pd1_dl1_g1",  # channels of no alignment
    "n1_c3_h9_w9_k8_r7_s7_st2_pd3_dl1_g1",  # a stem
    "n1_c3_h8_w8_k8_r4_s4_st4_pd0_dl1_g1",
    "n2_c8_h6_w4_k16_r3_s3_st2_pd1_dl1_g1",
    "n1_c8_h7_w7_k16_r2_s2_st3_pd0_dl1_g1",  # inputs that nothing reads
    "n1_c8_h7_w6_k16_r1_s1_st2_pd0_dl1_g1",  # classes that no tap sees
    "n3_c16_h4_w4_k24_r1_s1_st1_pd0_dl1_g1",
    "n1_c24_h3_w3_k8_r1_s1_st1_pd1_dl1_g1",
    "n1_c8_h7_w9_k16_r3_s2_st2x3_pd2x0x1x1_dl2x1_g1",
    "n1_c8_h9_w9_k8_r3_s3_st4_pd1_dl2_g1",  # dilation and stride have a common divisor
    "n1_c8_h8_w8_k8_r3_s3_st3_pd2_dl5_g1",
    "n1_c16_h6_w7_k16_r3_s3_st1_pd2_dl2_g1",
    "n1_c8_h6_w6_k8_r3_s3_st2_pd-1_dl1_g1",
    "n1_c8_h6_w6_k8_r3_s3_st1_pd-1_dl1_g1",
    "n1_c16_h2_w2_k16_r5_s5_st1_pd2_dl1_g1",
    "n1_c16_h1_w1_k16_r3_s3_st2_pd3_dl1_g1",
    "n17_c8_h2_w2_k8_r3_s3_st2_pd1_dl1_g1",
]


@pytest.mark.parametrize("gpu", [NEW, OLD], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("text", LAYERS)
def test_data_gradients(text: str, gpu: Gpu):
    spec = ConvSpec.parse(text)
    check(spec, "f16", data_gradient(spec, gpu, "f16"), is_weight=False)


@pytest.mark.parametrize("gpu", [NEW, OLD], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("text", LAYERS)
def test_weight_gradients(text: str, gpu: Gpu):
    spec = ConvSpec.parse(text)
    check(spec, "f16", weight_gradient(spec, gpu, "f16"), is_weight=True)


@pytest.mark.parametrize("precision", ["f32", "tf32"])
@pytest.mark.parametrize("stride", [1, 2])
def test_precisions(precision: str, stride: int):
    spec = ConvSpec.parse(f"n2_c8_h4_w6_k12_r3_s3_st{stride}_pd1_dl1_g1")
    for gpu in (NEW, OLD):
        check(spec, precision, data_gradient(spec, gpu, precision), is_weight=False)
        check(spec, precision, weight_gradient(spec, gpu, precision), is_weight=True)


@pytest.mark.parametrize("loads", ["images", "taps", "flat"])
@pytest.mark.parametrize(("c", "k", "n", "splits"), [(8, 64, 16, 1), (24, 72, 17, 2), (16, 56, 3, 5)])
def test_weight_gradients_around_blocks(loads: str, c: int, k: int, n: int, splits: int):
    """k, channels, images and pixels just below and behind those of a tile; splits that are uneven, and empty."""
    config = WeightConfig(loads, GpuTile(64, 16, 16, 4, 2), splits)
    spec = ConvSpec.parse(f"n{n}_c{c}_h2_w3_k{k}_r2_s2_st2x1_pd0x1_dl1_g1")
    check(spec, "f16", weight_gradient_of(spec, config, "f16"), is_weight=True)


@pytest.mark.parametrize("loads", ["images", "taps", "flat"])
@pytest.mark.parametrize("text", [LAYERS[4], LAYERS[7], "n1_c8_h6_w8_k8_r3_s3_st2_pd2x0x1x1_dl2x1_g1"])
def test_weight_gradients_by_all_loads(loads: str, text: str):
    spec, config = ConvSpec.parse(text), WeightConfig(loads, GpuTile(64, 16, 16, 4, 2), 2)
    check(spec, "f16", weight_gradient_of(spec, config, "f16"), is_weight=True)


@pytest.mark.parametrize(("c", "k"), [(15, 16), (16, 17), (17, 16)])
@pytest.mark.parametrize("size", ["h15_w8", "h16_w9"])  # pixels of a class around the 64 of a tile
def test_strided_data_gradients_around_blocks(c: int, k: int, size: str):
    spec = ConvSpec.parse(f"n2_c{c}_{size}_k{k}_r3_s3_st2_pd1_dl1_g1")
    check(spec, "f16", strided_of(spec, GpuTile(64, 16, 16, 4, 2), "f16"), is_weight=False)


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        (LAYERS[0], NEW),
        (LAYERS[0], OLD),
        (LAYERS[2], NEW),
        (LAYERS[8], OLD),
        ("n1_c3_h9_w9_k8_r5_s5_st2_pd2_dl2_g1", NEW),
    ],
)
def test_weights_are_packed_by_a_launch(text: str, gpu: Gpu):
    """As by the algorithm itself, bit for bit."""
    spec = ConvSpec.parse(text).with_epilogue(Epilogue(bias=True))
    made, config = forward(spec, gpu, "f16"), INDIRECT_GPU.configs(spec, gpu, "f16")[0]
    weight = torch.randn(spec.k, spec.c, spec.r, spec.s)
    expected = INDIRECT_GPU.pack(spec, config, weight, "f16")[WEIGHT]
    found = torch.full_like(expected, float("nan"))
    pack, layer = made.launches
    given = {WEIGHT: weight.to(torch.float16), made.workspaces[0].name: found}
    pack.run(given)
    assert torch.equal(found, expected)
    assert made.workspaces[0].elems == expected.numel()
    y = torch.full((spec.n, spec.p, spec.q, spec.k), float("nan"), dtype=torch.float16)
    x, bias = torch.randn(spec.n, spec.h, spec.w, spec.c).to(torch.float16), torch.randn(spec.k)
    layer.run({**given, X: x, Y: y, BIAS: bias})
    top, left, bottom, right = spec.pad
    truth = conv2d(
        pad(x.double().permute(0, 3, 1, 2), (left, right, top, bottom)),
        given[WEIGHT].double(),
        bias.double(),
        spec.stride,
        0,
        spec.dilation,
    )
    torch.testing.assert_close(y.double().permute(0, 3, 1, 2), truth, rtol=2e-3, atol=2e-3)


def test_a_pointwise_weight_is_read_where_it_lies():
    spec = ConvSpec.parse("n64_c128_h14_w14_k256_r1_s1_st1_pd0_dl1_g1")
    made = forward(spec, H200, "bf16")
    assert not made.workspaces
    (launch,) = made.launches
    assert WEIGHT in launch.arguments


def test_weight_gradients_are_the_same_each_time():
    """A sum for each split, added up in one order: bit for bit, whatever ran first."""
    spec = ConvSpec.parse("n2_c8_h5_w4_k16_r2_s2_st1_pd1_dl1_g1")
    made = weight_gradient_of(spec, WeightConfig("taps", GpuTile(64, 16, 16, 4, 2), 3), "f16")
    x, dy = torch.randn(2, 5, 4, 8).to(torch.float16), torch.randn(2, 6, 5, 16).to(torch.float16)
    found = [torch.empty(16, 8, 2, 2, dtype=torch.float16) for _ in range(2)]
    for dw in found:
        made.run({X: x, DY: dy, DW: dw}, "f16")
    assert torch.equal(*found)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_empty_batch(stride: int):
    """No outputs, no gradients of inputs, and weights whose gradient is zero."""
    spec = ConvSpec.parse(f"n0_c8_h4_w4_k16_r3_s3_st{stride}_pd1_dl1_g1")
    assert not forward(spec, H200, "f16").launches
    assert not data_gradient(spec, H200, "f16").launches
    x, dy = torch.empty(0, 4, 4, 8), torch.empty(0, spec.p, spec.q, 16)
    dw = torch.full((16, 8, 3, 3), float("nan"))
    weight_gradient(spec, NEW, "f32").run({X: x, DY: dy, DW: dw}, "f32")
    assert torch.equal(dw, torch.zeros_like(dw))


@pytest.mark.parametrize("gpu", [A100, H200], ids=lambda gpu: gpu.name)
def test_ordinary_layers_are_served(gpu: Gpu):
    for stride, size, precision in product((1, 2), (1, 3, 7), PRECISIONS):
        text = f"n32_c128_h28_w28_k128_r{size}_s{size}_st{stride}_pd{size // 2}_dl1_g1"
        for make in (forward, data_gradient, weight_gradient):
            assert make(ConvSpec.parse(text), gpu, precision).launches


def test_choices():
    """Bulk copies where they serve, one depth of all taps where there are few channels, splits for few results."""
    stem = ConvSpec.parse("n64_c3_h224_w224_k64_r7_s7_st2_pd3_dl1_g1")
    assert weight_configs(stem, H200, "bf16")[0].loads == "flat"
    middle = ConvSpec.parse("n64_c256_h28_w28_k256_r3_s3_st1_pd1_dl1_g1")
    first = weight_configs(middle, H200, "bf16")[0]
    assert first.loads == "images"
    assert first.splits > 1
    assert weight_configs(middle, A100, "bf16")[0].loads == "taps"
    assert weight_configs(replace(middle, n=1), H200, "bf16")[0].loads == "taps"
    tiles = strided_tiles(replace(middle, stride=(2, 2)), A100, "bf16")
    assert all(tile.shared_bytes(2) <= A100.shared_bytes for tile in tiles)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g2", "2 groups"),
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1_up2", "zeros between pixels"),
        ("n1_c8_h60000_w6000_k8_r3_s3_st1_pd1_dl1_g1", "offsets of 32 bits"),
        ("n1_c1_h40000_w40000_k8_r3_s3_st1_pd1_dl1_g1", "offsets of 32 bits"),
    ],
)
def test_other_layers_are_refused(text: str, reason: str):
    spec = ConvSpec.parse(text)
    refusal = refuse(spec, H200, "f16")
    assert refusal is not None
    assert reason in refusal.reason
    for make in (forward, data_gradient, weight_gradient):
        with pytest.raises(Refused, match=reason):
            make(spec, H200, "f16")


AHEAD = """
import json, sys
from waterline.algorithms.indirect.gpu_gradients import data_gradient, forward, weight_gradient
from waterline.machine.gpu import A100, H200
from waterline.spec import ConvSpec

precision, capability, *texts = sys.argv[1:]
gpu, found = {"80": A100, "90": H200}[capability], []
for text in texts:
    for make in (forward, data_gradient, weight_gradient):
        for launch in make(ConvSpec.parse(text), gpu, precision).launches:
            made = launch.compile(precision, int(capability))
            kinds, usage = sorted(made.matrix_instructions), made.usage()
            name = launch.function.__name__
            found.append([text, name, kinds, usage.registers, usage.spilled_bytes, made.shared_bytes, gpu.shared_bytes])
print(json.dumps(found))
"""
AHEAD_LAYERS = (
    "n64_c256_h28_w28_k256_r3_s3_st2_pd1_dl1_g1",
    "n64_c256_h14_w14_k1024_r1_s1_st1_pd0_dl1_g1",
    "n64_c3_h224_w224_k64_r7_s7_st2_pd3_dl1_g1",
)
# The one that matters most; `make gpu` asks for all of them.
AHEAD_PRECISIONS = os.environ.get("WATERLINE_TEST_PRECISIONS", "bf16").split(",")
WITHOUT_PRODUCTS = {"dense_pack", "dense_weight_total"}


@pytest.mark.parametrize("precision", AHEAD_PRECISIONS)
@pytest.mark.parametrize(("capability", "instruction"), [("80", "mma"), ("90", "wgmma")])
def test_kernels_compile_well(capability: str, instruction: str, precision: str):
    command = [sys.executable, "-c", AHEAD, precision, capability, *AHEAD_LAYERS]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    names = {name for _, name, *_ in found}
    assert {"dense_pack", "dense_data_gradient", "dense_weight_sums", "dense_weight_total"} <= names
    for text, name, kinds, registers, spilled_bytes, shared_bytes, shared_limit in found:
        assert spilled_bytes == 0, (text, name, registers)
        assert shared_bytes <= shared_limit
        if precision != "f32" and name not in WITHOUT_PRODUCTS:
            assert instruction in kinds, (text, name)
