"""Runs a GPU algorithm on one block in Triton's interpreter, and compares it with its layers one after the other in
float64: on small whole numbers, whose results are exact where the arithmetic is, and on random ones."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from algorithms.gpu_layers import EXACT, STORE_EPS, TINY
from waterline.algorithms.gpu import TORCH_TYPES, GpuBlockAlgorithm, Y
from waterline.graph.block import BlockSpec
from waterline.graph.ops import Binary, LayerNorm, Unary
from waterline.machine.gpu import H200, Gpu
from waterline.reference import compare, conv2d, conv_bound, evaluate
from waterline.reference.bounds import activation_bound
from waterline.reference.convolution import correlate
from waterline.spec import Epilogue

Array = np.ndarray


def stored(array: Array, precision: str) -> Array:
    return torch.from_numpy(np.asarray(array)).to(TORCH_TYPES[precision]).to(torch.float64).numpy()


def values_of(block: BlockSpec, draw, precision: str) -> tuple[list[Array], list[Array | None], list[Array | None]]:
    """What the block is given, and the weights and biases of its layers; vectors stay in f32."""

    def drawn(shape: tuple[int, ...]) -> Array:
        return np.asarray(draw(shape), np.float64)

    specs = [layer.spec for layer in block.layers]
    inputs = [stored(drawn(shape), precision if len(shape) == 4 else "f32") for shape in block.inputs]
    weights = [s and stored(drawn((s.k, s.group_c, s.r, s.s)) / (s.group_c * s.taps) ** 0.5, precision) for s in specs]
    biases = [stored(drawn((s.k,)), "f32") if s and s.epilogue.bias else None for s in specs]
    return inputs, weights, biases


def truth(
    block: BlockSpec, inputs: list[Array], weights: list[Array | None], biases: list[Array | None], precision: str
) -> tuple[Array, Array]:
    """The result in float64 and how far from it a computation may be that rounds as the kernel does."""
    values, errors = list(inputs), [np.zeros(()) for _ in inputs]
    for number, layer in enumerate(block.layers):
        given, wrong = [values[i] for i in layer.inputs], [errors[i] for i in layer.inputs]
        spec = layer.spec
        if spec is not None:
            weight, bias = weights[number], biases[number]
            residual = given[-1] if spec.epilogue.residual else None
            # What enters may be off and is rounded; the sum of the bound's two parts passes the activations.
            enters = np.broadcast_to(wrong[0], given[0].shape) + STORE_EPS[precision] * np.abs(given[0])
            plain = replace(spec, epilogue=Epilogue())
            error = correlate(enters, np.abs(weight), plain) + conv_bound(plain, given[0], weight)
            value = correlate(given[0], weight, plain)
            if bias is not None:
                value = value + bias[:, None, None]
            value, error = activation_bound(spec.epilogue.before, value, error + 2.0**-22 * np.abs(value), 2.0**-23)
            value = value if residual is None else value + residual
            value, error = activation_bound(spec.epilogue.after, value, error + 2.0**-22 * np.abs(value), 2.0**-23)
            np.testing.assert_allclose(value, conv2d(given[0], weight, bias, spec, residual), 1e-9, 1e-9)
        elif isinstance(layer.op, LayerNorm):
            value = evaluate(layer.op, [given[0].transpose(0, 2, 3, 1), *given[1:]]).transpose(0, 3, 1, 2)
            deviation = np.sqrt(given[0].var(axis=1, keepdims=True) + layer.op.epsilon)
            shape = np.abs((given[0] - given[0].mean(axis=1, keepdims=True)) / deviation)
            off = np.broadcast_to(wrong[0], given[0].shape) + (STORE_EPS[precision] + 2.0**-20) * np.abs(given[0])
            moved = off + off.mean(axis=1, keepdims=True) + shape * (shape * off).mean(axis=1, keepdims=True)
            error = 2 * moved / deviation * np.abs(given[1])[:, None, None] + 2.0**-20 * np.abs(value)
        elif isinstance(layer.op, Binary):
            value = evaluate(layer.op, given)
            factor = np.abs(given[1]) if layer.op.kind == "mul" else 1.0
            error = wrong[0] * factor + 2.0**-22 * np.abs(value)
        else:
            assert isinstance(layer.op, Unary)
            value, error = activation_bound(layer.op.function, given[0], wrong[0], 2.0**-23)
        values.append(value)
        errors.append(np.asarray(error))
    return values[-1], errors[-1] + STORE_EPS[precision] * np.abs(values[-1]) + TINY


def run(
    algorithm: GpuBlockAlgorithm,
    block: BlockSpec,
    config: Any,
    precision: str,
    gpu: Gpu,
    inputs: list[Array],
    weights: list[Array | None],
    biases: list[Array | None],
) -> Array:
    dtype = TORCH_TYPES[precision]
    n, k, p, q = block.output

    def tensor(array: Array) -> torch.Tensor:
        if array.ndim != 4:
            return torch.from_numpy(array.astype(np.float32)).reshape(-1)
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 2, 3, 1))).to(dtype)

    tensors = {str(i): tensor(array) for i, array in enumerate(inputs)}
    y = tensors[Y] = torch.full((n, p, q, k), float("nan"), dtype=dtype)
    made = [None if each is None else torch.from_numpy(each.astype(np.float32)) for each in weights]
    tensors |= algorithm.pack(block, config, made, precision)
    tensors |= {f"bias{i}": tensor(bias) for i, bias in enumerate(biases) if bias is not None}
    layer = algorithm.implement(block, config, gpu, precision)
    for each in layer.workspaces:
        tensors[each.name] = torch.full((each.elems,), float("nan"), dtype=TORCH_TYPES[each.precision or precision])
    for launch in layer.launches:
        launch.run(tensors)
    return y.to(torch.float64).numpy().transpose(0, 3, 1, 2)


def is_exact(block: BlockSpec) -> bool:
    """Whether whole numbers stay whole."""
    epilogues = [layer.spec.epilogue for layer in block.layers if layer.spec]
    functions = [each for epilogue in epilogues for each in (epilogue.before, epilogue.after)]
    return not any(isinstance(layer.op, LayerNorm | Unary) for layer in block.layers) and all(
        each is None or each.kind in EXACT for each in functions
    )


def check_block(
    algorithm: GpuBlockAlgorithm, block: BlockSpec, config: Any = None, precision: str = "f16", gpu: Gpu = H200
) -> None:
    """Raises AssertionError where a result is wrong; all memory begins as NaN."""
    refusal = algorithm.refuse(block, gpu, precision)
    assert refusal is None, refusal
    config = config or algorithm.configs(block, gpu, precision)[0]
    random = np.random.default_rng(zlib.crc32(f"{block.id} {config}".encode()))
    if is_exact(block):
        inputs, weights, biases = values_of(block, lambda shape: random.integers(-1, 2, shape), precision)
        weights = [None if each is None else np.sign(each) for each in weights]
        expected, _ = truth(block, inputs, weights, biases, precision)
        np.testing.assert_array_equal(run(algorithm, block, config, precision, gpu, inputs, weights, biases), expected)
    inputs, weights, biases = values_of(block, random.standard_normal, precision)
    expected, bound = truth(block, inputs, weights, biases, precision)
    found = compare(run(algorithm, block, config, precision, gpu, inputs, weights, biases), expected, bound)
    assert found.is_within, f"{config} {precision} {block.id}: {found}"
