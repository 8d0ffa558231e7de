"""Runs a GPU algorithm on one layer in Triton's interpreter, and compares it with the truth in float64.

Two runs on memory that begins as NaN: small whole numbers, whose results are exact where the arithmetic is (that
catches indexing errors which tolerances hide), and random numbers within the bound of the precision.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch

from waterline.algorithms.gpu import BIAS, RESIDUAL, TORCH_TYPES, GpuAlgorithm, X, Y
from waterline.machine.gpu import H200, Gpu
from waterline.reference import compare, conv2d, conv_bound
from waterline.spec import ConvSpec

# Largest relative error of storing a number, and of multiplying two as the matrix unit reads them.
STORE_EPS = {"f32": 2.0**-24, "tf32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
TINY = 2.0**-24  # the least number that f16 holds
# Activations that keep whole numbers whole.
EXACT = (None, "relu", "clip")


def check(
    algorithm: GpuAlgorithm,
    spec: ConvSpec,
    config: Any = None,
    precision: str = "f16",
    gpu: Gpu = H200,
    factor: float = 1.0,
    is_exact: bool = True,
) -> None:
    """Raises AssertionError where a result is wrong.

    Args:
        factor: how much larger than direct summation's the error may be.
        is_exact: whether results on small whole numbers are.
    """
    refusal = algorithm.refuse(spec, gpu, precision)
    assert refusal is None, refusal
    config = algorithm.configs(spec, gpu, precision)[0] if config is None else config
    random = np.random.default_rng(zlib.crc32(f"{spec.id} {config}".encode()))
    activations = (spec.epilogue.before, spec.epilogue.after)
    if is_exact and all(each is None or each.kind in EXACT for each in activations):
        values = _values(spec, lambda shape: random.integers(-2, 3, shape))
        actual, expected = run(algorithm, spec, config, precision, gpu, *values)
        np.testing.assert_array_equal(actual, expected)
    values = _values(spec, random.standard_normal)
    values = tuple(None if each is None else _stored(each, precision, i == 2) for i, each in enumerate(values))
    actual, expected = run(algorithm, spec, config, precision, gpu, *values)
    x, weight, bias, residual = (None if each is None else each.astype(np.float64) for each in values)
    bound = conv_bound(spec, x, weight, factor, bias=bias, residual=residual)
    bound += STORE_EPS[precision] * np.abs(expected) + TINY
    found = compare(actual, expected, bound)
    assert found.is_within, f"{algorithm.name} {config} {precision} {spec.id}: {found}"


def run(
    algorithm: GpuAlgorithm,
    spec: ConvSpec,
    config: Any,
    precision: str,
    gpu: Gpu,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    residual: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The result of the algorithm and the truth, both (n, k, p, q) in float64."""
    dtype = TORCH_TYPES[precision]

    def nhwc(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 2, 3, 1))).to(dtype)

    y = torch.full((spec.n, spec.p, spec.q, spec.k), float("nan"), dtype=dtype)
    tensors = {X: nhwc(x), Y: y}
    tensors |= algorithm.pack(spec, config, torch.from_numpy(weight.astype(np.float32)), precision)
    if bias is not None:
        tensors[BIAS] = torch.from_numpy(bias.astype(np.float32))
    if residual is not None:
        tensors[RESIDUAL] = nhwc(residual)
    algorithm.implement(spec, config, gpu, precision).run(tensors, precision)
    expected = conv2d(*(None if a is None else a.astype(np.float64) for a in (x, weight, bias)), spec, residual)
    return y.to(torch.float64).numpy().transpose(0, 3, 1, 2), expected


def _values(spec: ConvSpec, draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    output = (spec.n, spec.k, spec.p, spec.q)
    return (
        np.asarray(draw((spec.n, spec.c, spec.h, spec.w)), np.float64),
        np.asarray(draw((spec.k, spec.group_c, spec.r, spec.s)), np.float64),
        np.asarray(draw((spec.k,)), np.float64) if spec.epilogue.bias else None,
        np.asarray(draw(output), np.float64) if spec.epilogue.residual else None,
    )


def _stored(array: np.ndarray, precision: str, is_bias: bool) -> np.ndarray:
    """The numbers as tensors of the precision hold them; tf32's as the matrix unit reads them."""
    if precision == "tf32" and not is_bias:
        bits = array.astype(np.float32).view(np.uint32)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    dtype = torch.float32 if is_bias else TORCH_TYPES[precision]
    return torch.from_numpy(array).to(dtype).to(torch.float64).numpy()
