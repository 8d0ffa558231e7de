"""What Triton makes of the kernels for sm_80 and sm_90, with no GPU present: matrix instructions, no spills, and shared
memory within the limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("gpu_ahead.py")
LAYERS = {
    "direct_gemm": ("n64_c256_h56_w56_k64_r1_s1_st1_pd0_dl1_g1", "n1_c512_h7_w7_k2048_r1_s1_st1_pd0_dl1_g1"),
    "indirect": (
        "n64_c256_h14_w14_k256_r3_s3_st1_pd1_dl1_g1",
        "n1_c128_h28_w28_k128_r3_s3_st2_pd1_dl1_g1",
        "n64_c3_h224_w224_k64_r7_s7_st2_pd3_dl1_g1",
        "n1_c512_h7_w7_k512_r3_s3_st1_pd1_dl1_g1",
    ),
    "block_fusion": (
        "n32_c64_h56_w56_k384_r1_s1_st1_pd0_dl1_g1,n32_c384_h56_w56_k64_r1_s1_st1_pd0_dl1_g1",
        "n32_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g8,n32_c64_h56_w56_k384_r1_s1_st1_pd0_dl1_g1,"
        "n32_c384_h56_w56_k64_r1_s1_st1_pd0_dl1_g1",
        "n32_c96_h56_w56_k96_r7_s7_st1_pd3_dl1_g96,norm,n32_c96_h56_w56_k384_r1_s1_st1_pd0_dl1_g1,"
        "n32_c384_h56_w56_k96_r1_s1_st1_pd0_dl1_g1",
    ),
    # Of MobileNetV2, the first without an expansion, and of EfficientNet-B0, up to the squeeze where there is one.
    "block_fusion:inverted": (
        "n32_c32_h112_w112_k32_r3_s3_st1_pd1_dl1_g32,n32_c32_h112_w112_k16_r1_s1_st1_pd0_dl1_g1",
        "n32_c16_h112_w112_k96_r1_s1_st1_pd0_dl1_g1,n32_c96_h112_w112_k96_r3_s3_st2_pd1_dl1_g96,"
        "n32_c96_h56_w56_k24_r1_s1_st1_pd0_dl1_g1",
        "n32_c24_h56_w56_k144_r1_s1_st1_pd0_dl1_g1,n32_c144_h56_w56_k144_r3_s3_st1_pd1_dl1_g144,"
        "n32_c144_h56_w56_k24_r1_s1_st1_pd0_dl1_g1",
        "n32_c64_h14_w14_k384_r1_s1_st1_pd0_dl1_g1,n32_c384_h14_w14_k384_r3_s3_st1_pd1_dl1_g384,"
        "n32_c384_h14_w14_k96_r1_s1_st1_pd0_dl1_g1",
        "n32_c160_h7_w7_k960_r1_s1_st1_pd0_dl1_g1,n32_c960_h7_w7_k960_r3_s3_st1_pd1_dl1_g960,"
        "n32_c960_h7_w7_k160_r1_s1_st1_pd0_dl1_g1",
        "n32_c24_h56_w56_k144_r1_s1_st1_pd0_dl1_g1,n32_c144_h56_w56_k144_r5_s5_st2_pd2_dl1_g144",
        "n32_c80_h14_w14_k480_r1_s1_st1_pd0_dl1_g1,n32_c480_h14_w14_k480_r5_s5_st1_pd2_dl1_g480",
        "n32_c192_h7_w7_k1152_r1_s1_st1_pd0_dl1_g1,n32_c1152_h7_w7_k1152_r3_s3_st1_pd1_dl1_g1152",
    ),
    "grouped": ("n64_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g8", "n32_c256_h28_w28_k256_r3_s3_st2_pd1_dl1_g8"),
    "depthwise": ("n64_c96_h56_w56_k96_r7_s7_st1_pd3_dl1_g96", "n1_c960_h14_w14_k960_r3_s3_st2_pd1_dl1_g960"),
}
WITHOUT_PRODUCTS = {"depthwise"}  # of matrices
SUMMATION = "sum_parts"  # the second launch where a depth is split
# The one that matters most, and a few layers of each algorithm with their first config; `make gpu` asks for all.
PRECISIONS = os.environ.get("WATERLINE_TEST_PRECISIONS", "bf16").split(",")
IS_THOROUGH = "WATERLINE_TEST_PRECISIONS" in os.environ
CONFIGS = 2 if IS_THOROUGH else 1
EVERY = 1 if IS_THOROUGH else 3  # of the layers of an algorithm that has many
MANY = 4
MATRIX_INSTRUCTION = {80: "mma", 90: "wgmma"}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_compile_well(name: str, capability: int, precision: str):
    layers = LAYERS[name] if len(LAYERS[name]) <= MANY else LAYERS[name][1::EVERY]
    command = [sys.executable, str(SCRIPT), name, precision, str(capability), str(CONFIGS), *layers]
    env = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found
    for made in found:
        assert made["spilled_bytes"] == 0, made
        assert made["shared_bytes"] <= made["shared_limit"], made
        if precision != "f32" and name not in WITHOUT_PRODUCTS and made["kernel"] != SUMMATION:
            assert MATRIX_INSTRUCTION[capability] in made["matrix_instructions"], made
        assert not made["has_constant_loads"], made  # of memory that a kernel may write and read
