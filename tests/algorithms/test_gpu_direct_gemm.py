"""`direct_gemm` on a GPU, in Triton's interpreter."""

from __future__ import annotations

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
