"""`winograd` on a GPU, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms.gpu_layers import check, run
from algorithms.test_gpu_ahead import CONFIGS, IS_THOROUGH, SCRIPT
from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.algorithms.gpu import TORCH_TYPES
from waterline.algorithms.winograd import gpu
from waterline.algorithms.winograd.gpu import WINOGRAD_F2X2_GPU, WINOGRAD_F4X4_GPU, GpuWinograd
from waterline.algorithms.winograd.gpu_transforms import is_dyadic, rounded_to_tf32
from waterline.machine.gpu import A100, H200
from waterline.reference import compare, conv_bound
from waterline.spec import Activation, ConvSpec, Epilogue

SMALL = GpuTile(16, 16, 16, 4, 2)
COMPILED = [("bf16", 90), ("tf32", 80)] + [("f32", 90)] * IS_THOROUGH
BOTH = pytest.mark.parametrize("algorithm", [WINOGRAD_F2X2_GPU, WINOGRAD_F4X4_GPU], ids=lambda each: each.name)


def layer(
    n: int,
    c: int,
    h: int,
    w: int,
    k: int,
    pad: tuple[int, int, int, int] = (1, 1, 1, 1),
    epilogue: Epilogue | None = None,
) -> ConvSpec:
    return ConvSpec(n, c, h, w, k, 3, 3, pad=pad, epilogue=epilogue or Epilogue())


def check_layer(
    algorithm: GpuWinograd, spec: ConvSpec, config: GpuTile | None = SMALL, precision: str = "f16", **options: object
) -> None:
    factor = algorithm.tolerance(spec, precision)
    is_exact = is_dyadic(algorithm.filtering)
    check(algorithm, spec, config, precision, factor=factor, is_exact=is_exact, **options)


@BOTH
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 5), (2, 3), (4, 4), (3, 8), (5, 9)])
def test_images_around_tiles(algorithm: GpuWinograd, h: int, w: int):
    check_layer(algorithm, layer(1, 16, h, w, 16))


@BOTH
@pytest.mark.parametrize(("c", "k"), [(1, 1), (15, 17), (17, 15), (33, 8)])
def test_channels_around_blocks(algorithm: GpuWinograd, c: int, k: int):
    check_layer(algorithm, layer(1, c, 5, 4, k))


@BOTH
@pytest.mark.parametrize("tiles", [15, 16, 17])
def test_tiles_around_blocks(algorithm: GpuWinograd, tiles: int):
    check_layer(algorithm, layer(1, 16, 1, tiles * algorithm.m, 16))


@BOTH
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (0, 1, 2, 0), (2, 0, 0, 1), (-1, 1, 0, -2), (-1, -1, -1, -1)], ids=str)
def test_padding(algorithm: GpuWinograd, pad: tuple[int, int, int, int]):
    check_layer(algorithm, layer(2, 16, 6, 7, 16, pad))


@BOTH
@pytest.mark.parametrize("size", [4, 6, 10])
def test_tiles_that_see_the_image_only(algorithm: GpuWinograd, size: int):
    check_layer(algorithm, layer(1, 16, size, size, 16, (0, 0, 0, 0)))


@BOTH
def test_windows_that_see_padding_only(algorithm: GpuWinograd):
    """Their sums are zero but for the rounding of the other pixels of their tile."""
    spec = layer(1, 16, 2, 3, 16, (4, 3, 5, 6))
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((1, 16, 2, 3)), random.standard_normal((16, 16, 3, 3))
    x, weight = (np.asarray(each, np.float32).astype(np.float64) for each in (x, weight))
    actual, expected = run(algorithm, spec, SMALL, "f32", H200, x, weight, None, None)
    bound = conv_bound(spec, x, weight, algorithm.tolerance(spec, "f32"), mixes_pixels=True)
    assert compare(actual, expected, bound).is_within


@BOTH
@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
def test_precisions(algorithm: GpuWinograd, precision: str):
    check_layer(algorithm, layer(2, 24, 5, 5, 20, epilogue=Epilogue(bias=True)), SMALL, precision)


@BOTH
@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(bias=True, after=Activation("relu")),
        Epilogue(residual=True),
        Epilogue(bias=True, before=Activation("silu"), residual=True, after=Activation("clip", (-1.0, 2.0))),
        Epilogue(after=Activation("gelu")),
    ],
    ids=str,
)
def test_epilogues(algorithm: GpuWinograd, epilogue: Epilogue):
    check_layer(algorithm, layer(1, 24, 3, 7, 20, epilogue=epilogue))


@BOTH
def test_blocks_take_several_tiles(algorithm: GpuWinograd, monkeypatch: pytest.MonkeyPatch):
    """More items than blocks that run at once, in groups of rows of which the last is not full."""
    monkeypatch.setattr(gpu, "GROUP_ROWS", 2)
    few = replace(H200, multiprocessors=3)
    check_layer(algorithm, layer(1, 16, algorithm.m, 33 * algorithm.m, 40), gpu=few)


@BOTH
def test_groups_of_tiles(algorithm: GpuWinograd, monkeypatch: pytest.MonkeyPatch):
    """Workspaces for 16 tiles of 42: three groups of 14, of which one begins inside an image."""
    spec = layer(3, 16, 2 * algorithm.m, 7 * algorithm.m, 16, epilogue=Epilogue(bias=True, residual=True))
    monkeypatch.setattr(gpu, "WORKSPACE_BYTES", 16 * algorithm.points * 16 * (2 + 4))
    implementation = algorithm.implement(spec, SMALL, H200, "f16")
    assert len(implementation.launches) == 9
    assert sum(each.elems for each in implementation.workspaces) == 2 * 16 * algorithm.points * 16
    check_layer(algorithm, spec)


@BOTH
def test_the_chosen_config(algorithm: GpuWinograd):
    check_layer(algorithm, layer(1, 64, 7, 7, 40, epilogue=Epilogue(bias=True)), None)


@BOTH
@pytest.mark.parametrize("precision", ["f32", "tf32", "f16", "bf16"])
@pytest.mark.parametrize("device", [A100, H200], ids=lambda each: each.name)
def test_configs_fit_and_the_cheapest_is_first(algorithm: GpuWinograd, precision: str, device: object):
    spec = layer(8, 100, 28, 28, 130)
    configs = algorithm.configs(spec, device, precision)
    costs = [algorithm.cost(spec, each, device, precision) for each in configs]
    assert configs
    assert [each.seconds for each in costs] == sorted(each.seconds for each in costs)
    assert all(each.flops >= spec.flops * algorithm.points / algorithm.m**2 / 9 for each in costs)


def test_multiprocessors_run_as_many_blocks_as_have_room():
    """By registers (of 65536: 128 sums and others for 128 or 256 threads) and by shared memory (227 KiB)."""
    assert gpu.resident_blocks(GpuTile(128, 128, 64, 4, 3), H200, "f16") == 2
    assert gpu.resident_blocks(GpuTile(128, 256, 64, 8, 3), H200, "f16") == 1
    assert gpu.resident_blocks(GpuTile(64, 64, 64, 4, 4), H200, "f16") == 3
    spec = layer(32, 128, 56, 56, 128)
    _, products, _ = WINOGRAD_F2X2_GPU.implement(spec, GpuTile(128, 128, 64, 4, 3), H200, "f16").launches
    assert products.grid == (2 * H200.multiprocessors,)


@pytest.mark.parametrize("device", [A100, H200], ids=lambda each: each.name)
def test_sums_of_products_of_one_step_fit_too(device: object):
    for config in WINOGRAD_F2X2_GPU.configs(layer(8, 16, 28, 28, 256), device, "f16"):
        assert config.shared_bytes(2) + config.rows * config.columns * 4 <= device.shared_bytes


@BOTH
def test_an_empty_batch_has_no_launches(algorithm: GpuWinograd):
    spec = layer(0, 16, 4, 4, 16)
    assert not algorithm.implement(spec, SMALL, H200, "f16").launches
    assert algorithm.cost(spec, SMALL, H200, "f16").seconds == 0.0


def test_rounding_to_tf32_is_to_nearest_and_even():
    step = 2.0**-10
    values = torch.tensor([1.0, 1 + 0.49 * step, 1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.51 * step, float("inf")])
    expected = torch.tensor([1.0, 1.0, 1.0, 1 + 2 * step, -1 - step, float("inf")])
    assert torch.equal(rounded_to_tf32(values), expected)
    assert rounded_to_tf32(torch.tensor([float("nan")])).isnan().all()


@BOTH
@pytest.mark.parametrize("precision", ["f16", "bf16", "tf32", "f32"])
def test_filters_are_rounded_once(algorithm: GpuWinograd, precision: str):
    spec = layer(1, 5, 4, 4, 3)
    weight = torch.randn((3, 5, 3, 3), generator=torch.Generator().manual_seed(0))
    (packed,) = algorithm.pack(spec, SMALL, weight, precision).values()
    assert packed.dtype == TORCH_TYPES[precision]
    g = torch.tensor([[float(value) for value in row] for row in algorithm.filtering.g], dtype=torch.float64)
    exact = (g @ weight.double() @ g.T).flatten(2).permute(2, 0, 1)
    eps = {"f32": 2.0**-24}.get(precision, gpu.OPERAND_EPS[precision])
    assert ((packed[:, :3, :5] - exact).abs() <= eps * exact.abs() + 2.0**-25).all()
    assert not packed[:, 3:].any()
    assert not packed[:, :, 5:].any()


@BOTH
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n1_c8_h4_w4_k8_r1_s1_st1_pd0_dl1_g1", "1x1"),
        ("n1_c8_h4_w4_k8_r3_s1_st1_pd0_dl1_g1", "3x1"),
        ("n1_c8_h4_w4_k8_r3_s3_st2_pd1_dl1_g1", "(2, 2)"),
        ("n1_c8_h8_w8_k8_r3_s3_st1_pd1_dl2_g1", "(2, 2)"),
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g2", "2"),
        ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1_up2", "(2, 2)"),
        ("n60000_c1_h1000_w1000_k1_r3_s3_st1_pd1_dl1_g1", "rows of products"),
    ],
)
def test_other_layers_are_refused(algorithm: GpuWinograd, text: str, reason: str):
    assert reason in str(algorithm.refuse(ConvSpec.parse(text), H200, "f16"))


@BOTH
@pytest.mark.parametrize(("precision", "capability"), COMPILED)
def test_launches_compile_well(algorithm: GpuWinograd, precision: str, capability: int):
    """Only the products have matrix instructions, so these launches are not among `test_gpu_ahead`'s."""
    layers = ("n32_c128_h56_w56_k128_r3_s3_st1_pd1_dl1_g1", "n1_c40_h14_w14_k72_r3_s3_st1_pd1_dl1_g1")
    command = [sys.executable, str(SCRIPT), algorithm.name, precision, str(capability), str(CONFIGS), *layers]
    env = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {made["kernel"] for made in found} == {"winograd_input", "winograd_products", "winograd_output"}
    for made in found:
        assert made["spilled_bytes"] == 0, made
        assert made["shared_bytes"] <= made["shared_limit"], made
        if precision != "f32" and made["kernel"] == "winograd_products":
            is_asynchronous = capability >= 90 and "rows=32" not in made["config"]
            assert ("wgmma" if is_asynchronous else "mma") in made["matrix_instructions"], made
