"""Gradients of `grouped` on a GPU, in Triton's interpreter, against PyTorch's in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch

from algorithms.gpu_gradients import check
from waterline.algorithms.gpu import BIAS, X, Y
from waterline.algorithms.gradients import DW, DY, WEIGHT, gradient_spec
from waterline.algorithms.grouped.gpu import GROUPED_GPU, GpuWindows, Layout
from waterline.algorithms.grouped.gpu_gradients import data_gradient, forward, weight_gradient, weight_gradient_of
from waterline.errors import Refused
from waterline.machine.gpu import A100, H200, PRECISIONS, Gpu
from waterline.spec import ConvSpec, Epilogue

FEW = replace(H200, multiprocessors=2)
LAYERS = [
    "n2_c16_h5_w4_k16_r3_s3_st1_pd1_dl1_g2",
    "n1_c24_h3_w5_k24_r3_s3_st1_pd1_dl1_g3",
    "n1_c16_h6_w5_k16_r3_s3_st2_pd1_dl1_g2",
    "n1_c16_h7_w7_k16_r2_s2_st2_pd0_dl1_g2",  # inputs behind the last window
    "n1_c16_h7_w6_k16_r1_s1_st2_pd0_dl1_g2",  # inputs that nothing reads
    "n1_c16_h6_w7_k16_r3_s3_st1_pd2_dl2_g2",
    "n1_c16_h7_w9_k16_r3_s2_st2x3_pd2x0x1x1_dl2x1_g2",
    "n1_c16_h6_w6_k16_r3_s3_st1_pd-1_dl1_g2",
    "n1_c16_h2_w2_k16_r5_s5_st1_pd2_dl1_g2",
    "n1_c16_h1_w1_k16_r3_s3_st1_pd3_dl1_g2",
    "n3_c16_h4_w4_k16_r1_s1_st1_pd0_dl1_g2",
    "n1_c8_h4_w4_k16_r3_s3_st1_pd1_dl1_g2",
    "n1_c32_h4_w4_k8_r3_s3_st1_pd1_dl1_g2",
    "n1_c64_h3_w3_k64_r2_s1_st1_pd0_dl1_g2",
]


@pytest.mark.parametrize("text", LAYERS)
def test_data_gradients(text: str):
    spec = ConvSpec.parse(text)
    check(spec, "f16", data_gradient(spec, FEW, "f16"), is_weight=False)


@pytest.mark.parametrize("text", LAYERS)
def test_weight_gradients(text: str):
    spec = ConvSpec.parse(text)
    check(spec, "f16", weight_gradient(spec, FEW, "f16"), is_weight=True)


@pytest.mark.parametrize("precision", ["f32", "tf32"])
def test_precisions(precision: str):
    spec = ConvSpec.parse("n1_c40_h5_w5_k40_r3_s3_st2_pd1_dl1_g5")
    check(spec, precision, data_gradient(spec, FEW, precision), is_weight=False)
    check(spec, precision, weight_gradient(spec, FEW, precision), is_weight=True)


@pytest.mark.parametrize(
    "config",
    [GpuWindows((1, 1), 2, 4, 16), GpuWindows((2, 2), 1, 4, 16), GpuWindows((1, 2), 2, 16, 16)],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 17)])
def test_weight_gradients_around_tiles(config: GpuWindows, size: tuple[int, int]):
    """Outputs around the tile, rows around those of a product, several products of a program and several programs."""
    spec = ConvSpec.parse(f"n1_c24_h{size[0]}_w{size[1]}_k24_r3_s3_st1_pd1_dl1_g3")
    check(spec, "f16", weight_gradient_of(Layout(spec, config), FEW, "f16"), is_weight=True)


def test_weight_gradients_are_the_same_each_time():
    """A sum for each program, added up in one order: bit for bit, whatever ran first."""
    spec = ConvSpec.parse("n2_c16_h7_w7_k16_r3_s3_st1_pd1_dl1_g2")
    made = weight_gradient_of(Layout(spec, GpuWindows((1, 1), 2, 4, 16)), FEW, "f16")
    x, dy = (torch.randn(2, 7, 7, 16).to(torch.float16) for _ in range(2))
    found = [torch.empty(16, 8, 3, 3, dtype=torch.float16) for _ in range(2)]
    for dw in found:
        made.run({X: x, DY: dy, DW: dw}, "f16")
    assert torch.equal(*found)


@pytest.mark.parametrize("text", [LAYERS[1], LAYERS[6], LAYERS[11], "n1_c16_h3_w4_k16_r3_s3_st1_pd1_dl1_g2_up2"])
def test_weights_are_packed_by_a_launch(text: str):
    """As by the algorithm itself, bit for bit."""
    spec = ConvSpec.parse(text).with_epilogue(Epilogue(bias=True))
    made, config = forward(spec, FEW, "f16"), GROUPED_GPU.configs(spec, FEW, "f16")[0]
    weight = torch.randn(spec.k, spec.group_c, spec.r, spec.s)
    packed = GROUPED_GPU.pack(spec, config, weight, "f16")[WEIGHT]
    found = torch.full_like(packed, float("nan"))
    pack, layer = made.launches
    given = {WEIGHT: weight.to(torch.float16), made.workspaces[0].name: found}
    pack.run(given)
    assert torch.equal(found, packed)
    y = torch.full((spec.n, spec.p, spec.q, spec.k), float("nan"), dtype=torch.float16)
    x = torch.randn(spec.n, spec.h, spec.w, spec.c).to(torch.float16)
    layer.run({**given, X: x, Y: y, BIAS: torch.randn(spec.k)})
    assert not y.isnan().any()


@pytest.mark.parametrize("gpu", [A100, H200], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("width", [8, 16, 32])
def test_ordinary_layers_are_served(width: int, gpu: Gpu):
    for stride, size, precision in product((1, 2), (1, 3, 7), PRECISIONS):
        pad = size // 2
        text = f"n32_c128_h28_w28_k128_r{size}_s{size}_st{stride}_pd{pad}_dl1_g{128 // width}"
        for make in (forward, data_gradient, weight_gradient):
            assert make(ConvSpec.parse(text), gpu, precision).launches


def test_the_gradient_is_a_convolution_of_the_layers_size():
    for text in LAYERS:
        spec = ConvSpec.parse(text)
        turned = gradient_spec(spec)
        assert (turned.c, turned.h, turned.w) == (spec.k, spec.p, spec.q)
        assert (turned.k, turned.p, turned.q) == (spec.c, spec.h, spec.w)


@pytest.mark.parametrize("make", [forward, data_gradient, weight_gradient])
def test_other_layers_are_refused(make: object):
    with pytest.raises(Refused, match="12 input"):
        make(ConvSpec.parse("n1_c24_h4_w4_k24_r3_s3_st1_pd1_dl1_g2"), H200, "f16")


AHEAD = """
import json, sys
from waterline.algorithms.grouped.gpu_gradients import data_gradient, weight_gradient
from waterline.machine.gpu import A100, H200
from waterline.spec import ConvSpec

precision, capability, *texts = sys.argv[1:]
gpu, found = {"80": A100, "90": H200}[capability], []
for text in texts:
    for make in (data_gradient, weight_gradient):
        for launch in make(ConvSpec.parse(text), gpu, precision).launches:
            made = launch.compile(precision, int(capability))
            kinds, usage = sorted(made.matrix_instructions), made.usage()
            name = launch.function.__name__
            found.append([text, name, kinds, usage.registers, usage.spilled_bytes, made.shared_bytes, gpu.shared_bytes])
print(json.dumps(found))
"""


@pytest.mark.parametrize(("capability", "instruction"), [("80", "mma"), ("90", "wgmma")])
def test_kernels_compile_well(capability: str, instruction: str):
    texts = ["n64_c128_h28_w28_k128_r3_s3_st2_pd1_dl1_g16"]
    command = [sys.executable, "-c", AHEAD, "bf16", capability, *texts]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for text, name, kinds, registers, spilled_bytes, shared_bytes, shared_limit in json.loads(done.stdout):
        assert spilled_bytes == 0, (text, name, registers)
        assert shared_bytes <= shared_limit
        if name in ("grouped", "grouped_weight_sums"):
            assert instruction in kinds, (text, name)
