"""`direct_gemm` on a GPU, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from algorithms.gpu_layers import check
from waterline.algorithms.direct_gemm.gpu import DIRECT_GEMM_GPU, GpuTile
from waterline.machine.gpu import H200
from waterline.spec import Activation, ConvSpec, Epilogue

SMALL = GpuTile(16, 16, 16, 4, 2)


def layer(n: int, c: int, h: int, w: int, k: int, epilogue: Epilogue | None = None) -> ConvSpec:
    return ConvSpec(n, c, h, w, k, 1, 1, epilogue=epilogue or Epilogue())


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize(("c", "k"), [(1, 1), (15, 17), (16, 16), (17, 33), (40, 8)])
def test_sizes_around_tiles(rows: int, c: int, k: int):
    check(DIRECT_GEMM_GPU, layer(1, c, 1, rows, k), SMALL)


@pytest.mark.parametrize("precision", ["f16", "f32", "tf32"])
def test_precisions(precision: str):
    check(DIRECT_GEMM_GPU, layer(2, 40, 5, 5, 24, Epilogue(bias=True)), SMALL, precision)


@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(bias=True, after=Activation("relu")),
        Epilogue(residual=True),
        Epilogue(bias=True, before=Activation("silu"), residual=True, after=Activation("clip", (-1.0, 2.0))),
        Epilogue(after=Activation("gelu")),
        Epilogue(after=Activation("hard_swish")),
        Epilogue(after=Activation("tanh")),
    ],
    ids=str,
)
def test_epilogues(epilogue: Epilogue):
    check(DIRECT_GEMM_GPU, layer(1, 24, 3, 7, 20, epilogue), SMALL)


def test_blocks_take_several_tiles():
    """More tiles than blocks that run at once, in groups of rows that are not full."""
    few = H200.__class__(**{**H200.__dict__, "multiprocessors": 3})
    check(DIRECT_GEMM_GPU, layer(1, 16, 11, 16, 48), SMALL, gpu=few)


def test_the_chosen_config():
    check(DIRECT_GEMM_GPU, layer(1, 64, 7, 7, 40, Epilogue(bias=True)))


def test_other_layers_are_refused():
    for text in ("n1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1", "n1_c8_h4_w4_k8_r1_s1_st2_pd0_dl1_g1"):
        assert DIRECT_GEMM_GPU.refuse(ConvSpec.parse(text), H200, "f16")


@pytest.mark.parametrize("splits", [2, 3, 4])
@pytest.mark.parametrize("c", [16, 33, 70])
def test_a_depth_in_parts(splits: int, c: int):
    """Also more parts than the depth has steps: some are then empty."""
    epilogue = Epilogue(bias=True, before=Activation("relu"), residual=True, after=Activation("clip", (-3.0, 9.0)))
    check(DIRECT_GEMM_GPU, layer(2, c, 3, 3, 20, epilogue), replace(SMALL, splits=splits))


@pytest.mark.parametrize("precision", ["f32", "tf32"])
def test_a_depth_in_parts_in_other_precisions(precision: str):
    check(DIRECT_GEMM_GPU, layer(1, 50, 1, 5, 70), replace(SMALL, splits=3), precision)


def test_depths_are_split_where_tiles_are_few():
    """One image's deep layers, and not a large batch's."""
    few, many = layer(1, 8192, 7, 7, 128), layer(64, 8192, 7, 7, 128)
    splits = [DIRECT_GEMM_GPU.configs(spec, H200, "bf16")[0].splits for spec in (few, many)]
    assert splits[0] > 1
    assert splits[1] == 1
    for config in DIRECT_GEMM_GPU.configs(few, H200, "bf16"):
        assert config.splits == 1 or config.count(49, 128) * config.splits <= H200.multiprocessors
